"""The rule against the use of another module's private attributes."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from scripts.lint.sources import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scripts.lint.sources import Source

# Public methods of named tuples, and the standard library's only way to end a process without cleaning up.
_PUBLIC = {"_asdict", "_fields", "_make", "_replace", "_exit"}


def private_access(sources: Iterable[Source], allowed: dict[tuple[str, str], str]) -> list[Finding]:
    """Return the uses of private attributes that another module defines.

    Args:
        sources: Python files.
        allowed: intended uses, by path and attribute, with the reason.
    """
    return [
        Finding(source.path, node.lineno, f"private attribute {node.attr!r} of another object")
        for source in sources
        for node in _uses(source.tree)
        if (source.path, node.attr) not in allowed
    ]


def _uses(tree: ast.Module) -> Iterator[ast.Attribute]:
    own = _PUBLIC | set(_defined(tree))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and node.attr not in own
            and not _is_self(node.value)
        ):
            yield node


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that classes of the module define or set on themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield inner.name
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    yield inner.target.id
                elif isinstance(inner, ast.Assign):
                    yield from (target.id for target in inner.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
            yield node.attr


def _is_self(node: ast.expr) -> bool:
    """Return whether an expression is `self`, `cls` or `super()`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super"
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}
