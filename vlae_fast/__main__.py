"""`python -m vlae_fast` is `vlae-fast`."""

import sys

from vlae_fast import __version__

__all__ = ["main"]


def main() -> int:
    """Runs a command; returns the exit status: 1 where the packages of the extra `cli` are missing."""
    if "--version" in sys.argv[1:]:  # which needs none of them
        print(f"vlae-fast {__version__}")
        return 0
    try:
        from vlae_fast import cli
    except ModuleNotFoundError as error:
        print(f"vlae-fast: {error}", file=sys.stderr)
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
