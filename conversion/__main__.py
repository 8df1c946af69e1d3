"""``python -m conversion SOURCE DEST``, the same as ``tsjax convert SOURCE DEST``."""

import sys

from tsjax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
