"""Outcomes of a task for a model's vectors: a value for every item, and a statistic over any choice of items.

An outcome has items (questions, pairs, texts) and runs. A run is one repetition with its own seed, such as one training
sample of a classifier; where nothing is random there is one run. The statistic takes choices of items and runs. A
score, a score by length and a bootstrap are therefore the same call, and two outcomes can be compared on the same
choices.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from tsjax.errors import require_optional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class Outcome(Protocol):
    """Result of one model's vectors on a task."""

    @property
    def runs(self) -> int:
        """Return the number of repetitions; 1 where nothing is random."""

    @property
    def costly(self) -> bool:
        """Return whether each choice is computed separately, so that a bootstrap draws fewer of them."""

    @property
    def texts(self) -> Int[np.ndarray, "items texts"] | None:
        """Return the texts of each item as numbers where items share texts and so are not independent; else None.

        A group of items that are kept together counts as one text.
        """

    def differing(self, other: Any) -> Bool[np.ndarray, " items"]:
        """Return a mask of the items that may score differently in another outcome of the same task."""

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        """Return the score on each choice of items and runs; a choice may hold an item more than once."""

    def repeated(
        self,
        items: Int[np.ndarray, " items"],
        times: Int[np.ndarray, "choices items"],
        runs: Int[np.ndarray, "choices runs"],
    ) -> Float[np.ndarray, " choices"]:
        """Return `statistic` on choices given as the number of times that each item is repeated."""


class _OneByOne:
    """Outcome whose choices are computed one after the other."""

    def repeated(
        self: Any,
        items: Int[np.ndarray, " items"],
        times: Int[np.ndarray, "choices items"],
        runs: Int[np.ndarray, "choices runs"],
    ) -> Float[np.ndarray, " choices"]:
        choices = zip(times, runs, strict=True)
        return np.concatenate([self.statistic(np.repeat(items, often)[None], own[None]) for often, own in choices])


def score(outcome: Outcome, items: Int[np.ndarray, " items"]) -> float:
    """Return the score on some items over all runs; NaN where the outcome is undefined there (see the outcomes)."""
    return float(outcome.statistic(items[None], np.arange(outcome.runs)[None])[0])


@dataclass(frozen=True)
class Means:
    """Outcome with a value for each item, whose score is the mean: MRR, nDCG, recall, accuracy.

    Attributes:
        values: float (runs, items).
        texts: the group of each item where several items share one, int (items, 1); see `tsjax.lab.evaluation.copies`.
    """

    values: Float[np.ndarray, "runs items"]
    texts: Int[np.ndarray, "items 1"] | None = None
    costly: bool = False

    @property
    def runs(self) -> int:
        return len(self.values)

    def differing(self, other: Means) -> Bool[np.ndarray, " items"]:
        return np.asarray((self.values != other.values).any(axis=0))

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        if not items.shape[1]:
            return np.full(len(items), np.nan)
        if self.runs == 1:
            return self.values[0][items].mean(axis=1)
        return self.values[runs[:, :, None], items[:, None, :]].mean(axis=(1, 2))

    def repeated(
        self,
        items: Int[np.ndarray, " items"],
        times: Int[np.ndarray, "choices items"],
        runs: Int[np.ndarray, "choices runs"],
    ) -> Float[np.ndarray, " choices"]:
        drawn = np.stack([np.bincount(own, minlength=self.runs) for own in runs]) / runs.shape[1]
        return np.asarray((drawn @ self.values[:, items] * times).sum(axis=1) / times.sum(axis=1))


@dataclass(frozen=True)
class Correlation(_OneByOne):
    """Correlation, Pearson's or Spearman's, of a model's values of the items with people's judgements.

    Attributes:
        predicted: the model's value of each item, float (items,).
        wanted: people's judgement of each item, float (items,).
        ranked: True for Spearman's correlation, which is Pearson's of the ranks; False for Pearson's.
        texts: where items share texts, the group of each, int (items, 1), or its two texts, int (items, 2).

    The score is 0 where one of the two is constant, because it then follows nothing. For fewer than three items it is
    NaN.
    """

    predicted: Float[np.ndarray, " items"]
    wanted: Float[np.ndarray, " items"]
    ranked: bool
    texts: Int[np.ndarray, "items texts"] | None = None
    runs: int = 1

    @property
    def costly(self) -> bool:
        return self.texts is not None

    def differing(self, other: Correlation) -> Bool[np.ndarray, " items"]:
        return self.predicted != other.predicted

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        del runs  # nothing is random
        if items.shape[1] < 3:
            return np.full(len(items), np.nan)
        stats = require_optional("scipy.stats", extra="lab")
        x, y = (np.asarray(values, np.float64)[items] for values in (self.predicted, self.wanted))
        constant: Bool[np.ndarray, " choices"] = (np.ptp(x, axis=1) == 0) | (np.ptp(y, axis=1) == 0)
        if self.ranked:
            x, y = stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # constant choices are handled here
            result = stats.pearsonr(x, y, axis=1).statistic
        return np.where(constant, 0.0, result)


@dataclass(frozen=True)
class Labels(_OneByOne):
    """A label or a cluster for each item, and a measure of all of them together: macro F1, V-measure.

    Attributes:
        wanted: the true label of each item, int (items,).
        predicted: the label or cluster of each item in each run, int (runs, items).
        measure: a function of true and predicted labels with scikit-learn's signature.
        texts: see `Means`.

    The score of no items, or of items of one label, is NaN.
    """

    wanted: Int[np.ndarray, " items"]
    predicted: Int[np.ndarray, "runs items"]
    measure: Callable[[NDArray[np.intp], NDArray[np.intp]], float]
    costly: bool = True
    texts: Int[np.ndarray, "items 1"] | None = None

    @property
    def runs(self) -> int:
        return len(self.predicted)

    def differing(self, other: Labels) -> Bool[np.ndarray, " items"]:
        return np.asarray((self.predicted != other.predicted).any(axis=0))

    def statistic(
        self, items: Int[np.ndarray, "choices items"], runs: Int[np.ndarray, "choices runs"]
    ) -> Float[np.ndarray, " choices"]:
        result = np.full(len(items), np.nan)
        for choice, (some, repeated) in enumerate(zip(items, runs, strict=True)):
            wanted = self.wanted[some]
            if len(some) and np.ptp(wanted):
                # A run that was drawn more than once is measured only once.
                drawn, times = np.unique(repeated, return_counts=True)
                each = [self.measure(wanted, self.predicted[run, some]) for run in drawn]
                result[choice] = np.average(each, weights=times)
        return result
