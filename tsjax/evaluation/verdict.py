"""What follows from a sweep, in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tsjax.evaluation.bootstrap import CONFIDENCE

if TYPE_CHECKING:
    from tsjax.evaluation.sweeping import SweepResult


def verdict(result: SweepResult) -> str:
    """Which temperature to use, with the gain that says so."""
    best, measure, unit = result.best, result.measure, result.unit
    if best is result.baseline:
        return f"no other temperature does better than τ = 1 on the validation {unit}; leave τ = 1"
    gain = f"{best.gain.points} {measure} points on held-out {unit}"
    interval = f"{100 * CONFIDENCE:g} % interval {best.gain.ends}"
    match best.gain.verdict:
        case 1:
            return f"{best.candidate}: {gain} ({interval}); use it"
        case -1:
            return f"a loss beyond noise; leave τ = 1 ({best.candidate}, best on validation: {gain}, {interval})"
    return f"no gain beyond noise; leave τ = 1 ({best.candidate}: {gain}, {interval})"
