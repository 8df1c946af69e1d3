"""Entry point of ``python -m tsjax``, which is the same as the command ``tsjax``."""

from tsjax.cli.main import run

if __name__ == "__main__":
    run()
