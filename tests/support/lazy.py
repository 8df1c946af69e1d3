"""Deferred imports: PyTorch and related packages take ten seconds of each process that collects."""

import importlib
import importlib.util
from typing import Any

import pytest


class Lazy:
    """A module, or a name of one, that is imported when it is called or one of its attributes is read.

    Calls and attributes reach the real object; `isinstance` and `monkeypatch.setattr` do not.
    """

    def __init__(self, module: str, name: str | None = None) -> None:
        self._module, self._name = module, name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest reads private attributes of everything that it collects
            raise AttributeError(attribute)
        return getattr(self._import(), attribute)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._import()(*positional, **named)

    def _import(self) -> Any:
        module = importlib.import_module(self._module)
        return getattr(module, self._name) if self._name else module


def lazy(module: str, *names: str) -> Any:
    """Return a stand-in for a module, or for one or several of its names."""
    if not names:
        return Lazy(module)
    found = tuple(Lazy(module, name) for name in names)
    return found if len(found) > 1 else found[0]


def needs(package: str) -> pytest.MarkDecorator:
    """Return a mark that skips tests where a package is not installed, without importing it."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"needs {package}")
