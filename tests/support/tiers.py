"""Tiers of a test's parameters: fast ones (`make test`), and those in the complete suite only."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def fast_where(fast: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """Return the values as parameters of a test, marked `slow` where `fast` is false of them."""
    return [value if fast(value) else pytest.param(value, marks=pytest.mark.slow) for value in values]
