"""The rule against import cycles: imports for types alone and imports within functions count."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from scripts.lint.sources import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scripts.lint.sources import Source


def import_circles(sources: Iterable[Source]) -> list[Finding]:
    """Return a finding for each group of modules that import one another."""
    by_module = {source.module: source for source in sources}
    imports = {name: _imports(source, by_module.keys()) for name, source in by_module.items()}
    return [
        Finding(by_module[circle[0]].path, 1, f"circle of imports: {', '.join(circle)}") for circle in _circles(imports)
    ]


def _imports(source: Source, known: Iterable[str]) -> set[str]:
    """Return the modules of this repository that a file imports."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = source.module.split(".")
                if not source.path.endswith("__init__.py"):
                    package.pop()
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name in known else base)
    return (found & set(known)) - {source.module}


def _circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(imports[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            place = stack.index(name)
            members = sorted(stack[place:])
            del stack[place:]
            if len(members) > 1:
                circles.append(members)

    for name in sorted(imports):
        if name not in order:
            visit(name)
    return circles
