"""`python -m vlae_fast` is `vlae-fast`."""

import sys

from vlae_fast import __version__

__all__ = ["main"]


def main() -> int:
    """Runs a command; returns the exit status: 1 where the extra `cli` is missing, 2 for an unusable VLAE_FAST_ISA."""
    if "--version" in sys.argv[1:]:  # which needs none of them
        print(f"vlae-fast {__version__}")
        return 0
    try:
        from vlae_fast import cli, native

        native.isa()
    except (ModuleNotFoundError, RuntimeError) as error:
        print(f"vlae-fast: {error}", file=sys.stderr)
        return 1 if isinstance(error, ModuleNotFoundError) else 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
