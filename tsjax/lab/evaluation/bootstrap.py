"""Confidence intervals by the paired bootstrap: two outcomes on the same resampled items, again and again."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.errors import require_optional
from tsjax.lab.evaluation.outcomes import Outcome, score

if TYPE_CHECKING:
    from jaxtyping import Int

CONFIDENCE = 0.95

# Fewer independent items, or fewer that differ, cannot tell a gain from noise whatever the draws say: of five that
# differ, all in one direction, a sign test still finds one chance in sixteen.
_LEAST_ITEMS = 10
_LEAST_DIFFERING = 6

_RESAMPLES = 9_999
_RESAMPLES_IF_COSTLY = 999
_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A difference of scores and where it lies with 95 % confidence, as fractions of 1.

    Attributes:
        difference: on the items themselves.
        low: the lower end.
        high: the upper end.
        telling: whether there were items enough for the interval to be relied on (see `paired_difference`).
    """

    difference: float
    low: float
    high: float
    telling: bool = True

    @property
    def verdict(self) -> int:
        """1 for a gain beyond noise, -1 for a loss beyond noise, 0 for neither, or for too few items to tell."""
        return (int(self.low > 0) - int(self.high < 0)) * self.telling

    def to_json(self) -> dict[str, float | bool | None]:
        """As JSON values; an end that is infinite is null."""
        difference, low, high = (x if math.isfinite(x) else None for x in (self.difference, self.low, self.high))
        return {"difference": difference, "low": low, "high": high, "telling": self.telling}

    def points(self, of: str) -> str:
        """As points of a hundred: "+1.9 MRR@10 points (95 % interval +0.4 to +3.4)", if of ``MRR@10 points``."""
        return f"{100 * self.difference:+.1f} {of} ({100 * CONFIDENCE:g} % interval {self.ends})"

    @property
    def ends(self) -> str:
        """Where it lies, in points, such as "+0.4 to +3.4"."""
        return f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"


def paired_difference(
    candidate: Outcome, baseline: Outcome, items: Int[np.ndarray, " items"], *, seed: int
) -> Interval:
    """Return how much the candidate scores above the baseline on some items, with a percentile bootstrap interval.

    Items are drawn with replacement, and so are runs where there are several: the interval then covers the choice of
    texts and, say, of training samples. Both outcomes are measured on the same draws (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993). Where items share texts, texts are drawn: to draw items would take them for
    independent. Copies, and items that hang together, come together then; a pair of two texts comes as often as these
    do, multiplied (the vertex bootstrap of Snijders and Borgatti, "Non-Parametric Standard Errors and Tests for Network
    Statistics", 1999). Percentiles, since the better-founded BCa has no value where no item differs; those of ten items
    are too near to each other, so the ones that are taken are as much farther apart as Student's t is than the normal
    distribution (the expanded percentile interval of Hesterberg, "What Teachers Should Know About the Bootstrap",
    2015).

    Args:
        candidate: the one of interest.
        baseline: the other; it has as many runs.
        items: the items that count; of fewer than two, or two texts, the interval is all numbers.
        seed: of the draws.

    Returns:
        the interval; it is telling if at least ten items are independent (see `independent`), and at least six of those
        that the two outcomes score differently.
    """
    if candidate is baseline:
        return Interval(0.0, 0.0, 0.0)
    difference = score(candidate, items) - score(baseline, items)
    assert candidate.runs == baseline.runs  # of the same task

    drawn_from = _drawn_from(candidate, items)

    def difference_of(*drawn: Int[np.ndarray, "choices _"], axis: int) -> Any:
        assert axis in (-1, drawn[0].ndim - 1)
        some, *runs = map(np.atleast_2d, drawn)
        chosen = runs[0] if runs else np.zeros((len(some), 1), np.intp)
        if drawn_from is None:
            return candidate.statistic(some, chosen) - baseline.statistic(some, chosen)
        often = np.stack([np.bincount(choice, minlength=len(samples[0])) for choice in some])
        often = np.pad(often, ((0, 0), (0, 1)), constant_values=1)  # place -1: once
        times = often[:, drawn_from].prod(axis=2)
        return candidate.repeated(items, times, chosen) - baseline.repeated(items, times, chosen)

    samples = [items if drawn_from is None else np.arange(1 + drawn_from.max(initial=-1))]
    if candidate.runs > 1:
        samples.append(np.arange(candidate.runs))
    if min(map(len, samples)) < 2:
        return Interval(difference, -np.inf, np.inf, telling=False)
    stats = require_optional("scipy.stats", extra="lab")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # that draws have no value is seen to below
        resampled = stats.bootstrap(
            samples,
            difference_of,
            n_resamples=_RESAMPLES_IF_COSTLY if candidate.costly else _RESAMPLES,
            batch=max(1, _NUMBERS_AT_ONCE // (len(items) * candidate.runs)),
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    # A draw may hold items of one label only, which have no V-measure: those say nothing.
    drawn = resampled.bootstrap_distribution
    usable = drawn[np.isfinite(drawn)]
    if not len(usable):
        return Interval(difference, -np.inf, np.inf, telling=False)
    enough = max(2.0, independent(candidate, items))
    tail = 100 * stats.norm.cdf(np.sqrt(enough / (enough - 1)) * stats.t.ppf((1 - CONFIDENCE) / 2, enough - 1))
    low, high = np.percentile(usable, [tail, 100 - tail])
    differing = items[candidate.differing(baseline)[items]]
    telling = enough >= _LEAST_ITEMS and independent(candidate, differing) >= _LEAST_DIFFERING
    return Interval(difference, float(low), float(high), telling)


def independent(outcome: Outcome, items: Int[np.ndarray, " items"]) -> float:
    """Return how many independent items some items are worth: all, or where they share texts, as many as the texts.

    Texts that stand in more items than others count for less than one: of sizes s there are ``(Σs)²/Σs²`` (Kish,
    "Survey Sampling", 1965), so that one text with a hundred copies beside ten others is worth little more than one.
    """
    texts = _drawn_from(outcome, items)
    if texts is None:
        return float(len(items))
    if not len(texts):
        return 0.0
    sizes = np.bincount(texts[texts >= 0]).astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _drawn_from(outcome: Outcome, items: Int[np.ndarray, " items"]) -> Int[np.ndarray, "items texts"] | None:
    """Return the texts of some items, numbered from 0 among these; -1 for a text that an item has twice."""
    if outcome.texts is None:
        return None
    own = outcome.texts[items]
    number = np.unique(own, return_inverse=True)[1].reshape(own.shape)
    if own.shape[1] == 2:  # a pair of a text and its copy comes as often as the text
        number[own[:, 0] == own[:, 1], 1] = -1
    return number
