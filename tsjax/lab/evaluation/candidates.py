"""The temperatures that a sweep tries: a grid of τ, under laws of length, for documents, queries or both."""

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

# Dense where gains have been found, some beyond it, and some above 1, since a model may want softer attention.
DEFAULT_GRID = (1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)

# Of a law, in characters.
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Candidate:
    """One temperature of a sweep.

    Attributes:
        tau: its place in the grid.
        law: the law of length as it was asked for: ``none``, ``log:128``, ``piecewise:128:512``.
        side: whose temperature it is; the other side has τ = 1.
        temperature: all of it.
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
    """Every τ under every law on every side, and first of all the baseline, τ = 1; nothing twice.

    Args:
        taus: finite and > 0. Under ``log:N`` it is the temperature of texts of N tokens; under ``piecewise:A:B`` that
            of texts of B tokens and more, while those of up to A keep 1.
        laws: ``none``, ``log:N`` or ``piecewise:A:B``; see `tsjax.LogLength` and `tsjax.Piecewise`.
        sides: whose temperature it is: ``both``, ``documents`` or ``queries``.

    Raises:
        InputError: no τ, one that cannot be, or an unknown law or side.
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
    """A law by its short name: ``none``, ``log:N`` or ``piecewise:A:B``, which takes the factor.

    Raises:
        InputError: it names no law.
    """
    match name.split(":") if len(name) < _LONGEST_NAME else []:  # Python reads no numbers of thousands of digits
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
    """The temperature for one side, while the other's is 1; or for both."""
    if side == "both" or temperature == Temperature():
        return temperature
    if side == "documents":
        return Temperature(temperature.value, by_length=temperature.by_length, query=Temperature())
    return Temperature(query=temperature)
