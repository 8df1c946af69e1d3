"""The files that are checked, and the findings that a rule reports."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Finding(NamedTuple):
    """A place that breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Source:
    """A file of text.

    Attributes:
        path: relative to the root of the repository, with slashes.
        text: its content.
    """

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Return the syntax tree of a Python file."""
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        """Return the dotted name of a Python file; a package's is that of its folder."""
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def read(root: Path, *patterns: str) -> list[Source]:
    """Return the files that match the patterns, in the order of their paths."""
    paths = sorted({path for pattern in patterns for path in root.glob(pattern)})
    return [Source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield the functions and classes of a module or class, those under an `if` or `try` included."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from definitions([*node.body, *node.orelse])
