"""The command that checks all rules and prints the violations; it ends with 1 if a rule exceeds its bound."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from scripts.lint.annotations import public_any
from scripts.lint.circles import import_circles
from scripts.lint.private import private_access
from scripts.lint.prose import banned_words, headless_docstrings
from scripts.lint.sources import Finding, Source, read

ROOT = Path(__file__).parents[2]

# The maximum number of findings of each rule. A bound is lowered when findings are fixed; it never rises.
BOUNDS = {
    "import circles": 0,
    "private attributes of others": 0,
    "headless docstrings": 0,
    "banned words": 37,
    "public Any in tsjax/api.py and tsjax/encoders": 0,
    "public Any elsewhere": 11,
}

# Intended uses of others' private attributes, by file and name, with the reason.
ALLOWED_PRIVATE = {
    ("tsjax/cli/main.py", "_SubParsersAction"): "argparse has no other name for the type",
    ("tsjax/cli/options.py", "_ArgumentGroup"): "argparse has no other name for the type",
    ("tsjax/warn.py", "_getframe"): "the caller's frame, without the source files that inspect reads",
}

# These files name the words that they look for.
_OWN = ("scripts/lint/", "tests/scripts/test_lint.py")


class Rule(NamedTuple):
    """A rule's findings, and their maximum number."""

    name: str
    findings: list[Finding]
    bound: int


def check(root: Path) -> list[Rule]:
    """Apply all rules to a checkout."""
    library = read(root, "tsjax/**/*.py", "conversion/**/*.py")
    scripts = read(root, "scripts/**/*.py")
    tests = read(root, "tests/**/*.py")
    prose = read(root, "README.md", "CONTRIBUTING.md", "docs/**/*.md")
    findings = {
        "import circles": import_circles(library),
        "private attributes of others": private_access([*library, *scripts], ALLOWED_PRIVATE),
        "headless docstrings": headless_docstrings([*library, *scripts, *tests]),
        "banned words": banned_words(_others([*library, *scripts, *tests, *prose])),
        "public Any in tsjax/api.py and tsjax/encoders": public_any(filter(_is_surface, library)),
        "public Any elsewhere": public_any(source for source in library if not _is_surface(source)),
    }
    return [Rule(name, found, BOUNDS[name]) for name, found in findings.items()]


def _others(sources: list[Source]) -> list[Source]:
    return [source for source in sources if not source.path.startswith(_OWN)]


def _is_surface(source: Source) -> bool:
    return source.path.startswith(("tsjax/api.py", "tsjax/encoders/"))


def main(root: Path = ROOT) -> int:
    """Print the findings of the violated rules, and a line for each rule."""
    broken = 0
    for name, findings, bound in check(root):
        if len(findings) > bound:
            broken += 1
            print(*findings, sep="\n")
        note = f"; lower the bound to {len(findings)}" if len(findings) < bound else ""
        print(f"{name}: {len(findings)} of at most {bound}{note}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
