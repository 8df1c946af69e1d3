"""Rules of this repository that no published linter checks: `python -m scripts.lint`, which `make check` runs."""
