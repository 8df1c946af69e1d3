"""Temperatures that a sweep tries: a grid of τ, with laws of length, for documents, queries or both."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from tsjax.errors import InputError
from tsjax.temperature import LogLength, Piecewise, Temperature
from tsjax.validation.numbers import finite_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tsjax.temperature import Law

Side: TypeAlias = Literal["both", "documents", "queries"]

# The grid is dense where gains have been found. It extends further down, and above 1 for models that need softer
# attention.
DEFAULT_GRID = (1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)

# Longest accepted name of a law, in characters.
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Candidate:
    """One temperature of a sweep.

    Attributes:
        tau: the value of τ in the grid.
        law: the law of length as requested: ``none``, ``log:128``, ``piecewise:128:512``.
        side: the side that the temperature applies to; the other side has τ = 1.
        temperature: the complete temperature.
    """

    tau: float
    law: str
    side: Side
    temperature: Temperature

    def __str__(self) -> str:
        side = "" if self.side == "both" else f"{self.side}' "
        if self.law == "none":
            return f"{side}τ = {self.tau:g}"
        part = self.temperature.for_task("query" if self.side == "queries" else "document")
        return f"{side}τ = {part}"


BASELINE = Candidate(1.0, "none", "both", Temperature())


def grid(
    taus: Sequence[float] = DEFAULT_GRID, laws: Sequence[str] = ("none",), sides: Sequence[Side] = ("both",)
) -> tuple[Candidate, ...]:
    """Return every τ under every law on every side, without duplicates; the baseline, τ = 1, comes first.

    Args:
        taus: finite and > 0. Under ``log:N`` it is the temperature of texts of N tokens; under ``piecewise:A:B`` that
            of texts of B tokens and more, while those of up to A keep 1.
        laws: ``none``, ``log:N`` or ``piecewise:A:B``; see `tsjax.LogLength` and `tsjax.Piecewise`.
        sides: the sides that the temperature applies to: ``both``, ``documents`` or ``queries``.

    Raises:
        InputError: there is no τ, a τ is invalid, or a law or side is unknown.
    """
    if not len(taus):
        raise InputError("the grid of temperatures is empty; give some, such as 1,0.9,0.8")
    for tau in taus:
        finite_number("each temperature of the grid", tau, positive=True)
    for side in sides:
        if side not in get_args(Side):
            raise InputError(f"there is no side {side!r}; there are {', '.join(get_args(Side))}")
    candidates = [BASELINE]
    for side, law, tau in itertools.product(sides, laws, taus):
        one = Candidate(float(tau), law, side, on_side(_under_law(float(tau), law), side))
        if all(one.temperature != other.temperature for other in candidates):
            candidates.append(one)
    if len(candidates) == 1:
        raise InputError("the grid holds nothing but τ = 1, so there is nothing to choose from")
    return tuple(candidates)


def law_of(name: str, factor: float = 1.0) -> Law | None:
    """Return the law with a short name: ``none``, ``log:N`` or ``piecewise:A:B``; only the last uses ``factor``.

    Raises:
        InputError: the name is not that of a law.
    """
    match name.split(":") if len(name) < _LONGEST_NAME else []:  # int() rejects thousands of digits
        case ["none"]:
            return None
        case ["log", length] if length.isdecimal():
            return LogLength(int(length))
        case ["piecewise", start, end] if start.isdecimal() and end.isdecimal():
            return Piecewise(int(start), int(end), factor)
    raise InputError(f"there is no law {name!r:.60}; there are none, log:N (such as log:128) and piecewise:A:B")


def _under_law(tau: float, name: str) -> Temperature:
    law = law_of(name, tau)
    if isinstance(law, Piecewise):
        return Temperature() if tau == 1 else Temperature(by_length=law)
    return Temperature(tau, by_length=law)


def on_side(temperature: Temperature, side: Side) -> Temperature:
    """Return a temperature that applies to one side while the other has 1, or to both sides."""
    if side == "both" or temperature == Temperature():
        return temperature
    if side == "documents":
        return Temperature(temperature.value, by_length=temperature.by_length, query=Temperature())
    return Temperature(query=temperature)
