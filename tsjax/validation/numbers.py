"""Checks of whole and finite numbers, shared by all arguments, and the errors that name them."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any, TypeGuard

from tsjax.errors import InputError

if TYPE_CHECKING:
    from tsjax.errors import TsjaxError


def is_whole_number(value: object, at_least: int = 1, at_most: float = math.inf) -> TypeGuard[int]:
    """Return whether a value is an integer, of Python or NumPy, within bounds; true and false are not integers."""
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and at_least <= int(value) <= at_most


def is_finite_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a Python number that a float can hold; true and false are not numbers."""
    try:
        return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def whole_number(
    name: str,
    value: object,
    at_least: int = 1,
    at_most: float = math.inf,
    *,
    unit: str = "",
    error: type[TsjaxError] = InputError,
) -> int:
    """Return a value as a Python int if `is_whole_number`; the error names the ``unit``.

    Raises:
        TsjaxError: of the type ``error``; names the value and what is expected.
    """
    if is_whole_number(value, at_least, at_most):
        return int(value)
    most = "" if at_most == math.inf else f" and at most {at_most}"
    raise error(f"{name} must be a whole number of at least {at_least}{most}{unit and f' {unit}'}, not {value!r:.60}")


def finite_number(name: str, value: object, *, positive: bool = False, error: type[TsjaxError] = InputError) -> float:
    """Return a value if it is a finite number of at least 0, or above 0 if ``positive``.

    Raises:
        TsjaxError: of the type ``error``; names the value and what is expected.
    """
    if is_finite_number(value) and (value > 0 if positive else value >= 0):
        return value
    raise error(f"{name} must be finite and {'>' if positive else '>='} 0, not {value!r:.60}")


def check_whole_fields(
    instance: Any,
    *names: str,
    at_least: int = 1,
    at_most: float = math.inf,
    unit: str = "",
    error: type[TsjaxError] = InputError,
) -> None:
    """Check fields of a frozen dataclass by `whole_number`, and store each as a Python int, which JSON can hold."""
    for name in names:
        value = whole_number(name, getattr(instance, name), at_least, at_most, unit=unit, error=error)
        object.__setattr__(instance, name, value)
