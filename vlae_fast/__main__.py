"""`python -m vlae_fast` is `vlae-fast`."""

import sys

__all__ = ["main"]


def main() -> int:
    """Runs a command; returns the exit status: 1 where the packages of the extra `cli` are missing."""
    try:
        from vlae_fast import cli
    except ModuleNotFoundError as error:
        print(f"vlae-fast: {error}", file=sys.stderr)
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
