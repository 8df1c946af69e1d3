"""``python -m tsjax``, the same as the command ``tsjax``."""

from tsjax.cli.main import run

if __name__ == "__main__":
    run()
