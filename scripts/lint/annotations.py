"""The rule that public functions state their return type."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from scripts.lint.sources import Finding, definitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scripts.lint.sources import Source


def public_any(sources: Iterable[Source]) -> list[Finding]:
    """Return the public functions and methods that are annotated to return Any.

    The body of an overloaded function is exempt, because callers see only its overloads.
    """
    return [
        Finding(source.path, node.lineno, f"public function {node.name!r} returns Any")
        for source in sources
        for node in _public(source.tree.body)
        if node.returns is not None and _is_any(node.returns)
    ]


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    overloaded = set()
    for node in definitions(body):
        if node.name.startswith("_") and node.name != "__call__":
            continue
        if isinstance(node, ast.ClassDef):
            yield from _public(node.body)
        elif any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list):
            overloaded.add(node.name)
            yield node
        elif node.name not in overloaded:
            yield node


def _is_any(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):  # a union with Any is Any to a caller
        return _is_any(node.left) or _is_any(node.right)
    return ast.unparse(node).strip("'\"") in {"Any", "typing.Any"}
