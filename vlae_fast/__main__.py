"""`python -m vlae_fast` is `vlae-fast`."""

import sys

from vlae_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
