"""Plain technical English: docstrings that begin with a verb or a noun, and words that are not used."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from scripts.lint.sources import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scripts.lint.sources import Source

# First words of a clause without a head: "What a batch holds", "Whether a file is there", "As `encode`, but …".
HEADLESS = frozenset("As How Of Than That What Whatever When Where Whether Which Who Whoever Whom Whose Why".split())

BANNED = re.compile(r"\b(lest|anew|whoever|nobody|so many|of one's own)\b|(?-i:\bis none\b)", re.IGNORECASE)


def headless_docstrings(sources: Iterable[Source]) -> list[Finding]:
    """Return the docstrings whose summary opens with a headless clause."""
    found = []
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first, _, _ = (ast.get_docstring(node) or "").partition(" ")
                if first.rstrip(".,:;") in HEADLESS:
                    line = getattr(node, "lineno", 1)
                    found.append(Finding(source.path, line, f"the docstring's summary begins with {first!r}"))
    return found


def banned_words(sources: Iterable[Source]) -> list[Finding]:
    """Return the uses of words that are not plain English, in code and prose."""
    return [
        Finding(source.path, number, f"{match[0]!r} is not used here")
        for source in sources
        for number, line in enumerate(source.text.splitlines(), start=1)
        for match in BANNED.finditer(line)
    ]
