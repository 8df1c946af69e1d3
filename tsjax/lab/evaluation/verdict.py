"""Conclusion of a sweep in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsjax.lab.evaluation.sweeping import SweepResult


def verdict(result: SweepResult) -> str:
    """Return a sentence that names the temperature to use and the gain that supports it."""
    best, measure, unit = result.best, result.measure, result.unit
    if best is result.baseline:
        return f"no other temperature does better than τ = 1 on the validation {unit}; leave τ = 1"
    gain = best.gain.points(f"{measure} points on held-out {unit}")
    match best.gain.verdict:
        case 1:
            return f"{best.candidate}: {gain}; use it"
        case -1:
            return f"a loss beyond noise; leave τ = 1: {best.candidate}, best on validation, gives {gain}"
    if not best.gain.telling:
        return f"too few of the held-out {unit} score differently to tell; leave τ = 1: {best.candidate} gives {gain}"
    return f"no gain beyond noise; leave τ = 1: {best.candidate} gives {gain}"
