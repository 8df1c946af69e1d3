"""Keyword arguments: split by the function that takes them, and refused with the nearest name."""

from __future__ import annotations

import difflib
import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tsjax.errors import KeywordError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Function = TypeVar("Function", bound="Callable[..., Any]")
Options = TypeVar("Options")


def part(given: Mapping[str, object], of: type[Options]) -> Options:
    """Return the given keywords that a TypedDict has."""
    return cast("Options", {name: value for name, value in given.items() if name in of.__annotations__})


def strict_keywords(
    *more: type, elsewhere: Mapping[str, str] | None = None, name: str | None = None
) -> Callable[[Function], Function]:
    """Make a function refuse unknown keywords with a `KeywordError`, which suggests the nearest name.

    Args:
        more: TypedDicts of the keywords that the function takes in addition to its named parameters.
        elsewhere: explanations of keywords that belong to other functions, by name.
        name: name of the function in the error; None for its own name.
    """

    def decorate(function: Function) -> Function:
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        takes = [each.name for each in inspect.signature(function).parameters.values() if each.kind in kinds]
        takes += [keyword for options in more for keyword in options.__annotations__]
        takes = [each for each in takes if each != "self"]
        called = name or function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def checked(*positional: Any, **keywords: Any) -> Any:
            for keyword in keywords:
                if keyword not in takes:
                    raise KeywordError(_refusal(called, keyword, takes, elsewhere or {}))
            return function(*positional, **keywords)

        return cast("Function", checked)

    return decorate


def _refusal(called: str, keyword: str, takes: list[str], elsewhere: Mapping[str, str]) -> str:
    refusal = f"{called} has no argument {keyword!r}"
    if keyword in elsewhere:
        return f"{refusal}; {elsewhere[keyword]}"
    close = difflib.get_close_matches(keyword, [*takes, *elsewhere], 1, cutoff=0.5)
    if not close:
        return f"{refusal}; it takes {', '.join(takes)}"
    where = f", but {elsewhere[close[0]]}" if close[0] not in takes else ""
    return f"{refusal}; did you mean {close[0]!r}{where}?"
