"""``python -m tsjax``, the same as the command ``tsjax``."""

import sys

from tsjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
