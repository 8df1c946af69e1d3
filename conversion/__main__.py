"""The command ``python -m conversion SOURCE DEST``, the same as ``tsjax convert SOURCE DEST``."""

import sys

from tsjax.cli.main import run

if __name__ == "__main__":
    run(["convert", *sys.argv[1:]])
