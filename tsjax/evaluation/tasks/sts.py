"""Semantic textual similarity: do the similarities of pairs of texts follow people's judgements?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError
from tsjax.evaluation.outcomes import Correlation
from tsjax.evaluation.split import Split, halves
from tsjax.evaluation.tasks.task import chosen_measure

if TYPE_CHECKING:
    from jaxtyping import Float

    from tsjax.evaluation.tasks.task import CountTokens, Encoder, Vectors

_LEAST = 5  # pairs in a part: resampled, fewer are too often all the same


@dataclass(frozen=True)
class STS:
    """Pairs of texts and how alike people find them.

    Attributes:
        pairs: two texts each.
        scores: people's judgement of each pair, on any scale; more is more alike.
        measure: Spearman or Pearson, correlations as scipy computes them.

    Raises:
        InputError: scores that are not finite or all the same, or not one for each pair.
    """

    pairs: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]
    measure: str = "Spearman"
    kind: str = "sts"
    unit: str = "pairs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "measure", chosen_measure(self.measure, ("Spearman", "Pearson"), "sts"))
        if not self.pairs:
            raise InputError("there are no pairs of texts")
        if len(self.pairs) != len(self.scores):
            raise InputError(f"there are {len(self.pairs)} pairs and {len(self.scores)} scores")
        for place, value in enumerate(self.scores):
            if not math.isfinite(value):
                raise InputError(f"pair {place} has the score {value}, which is not a finite number")
        if len(set(self.scores)) == 1:
            raise InputError(f"every pair has the score {self.scores[0]:g}; a correlation needs scores that differ")

    @cached_property
    def documents(self) -> tuple[str, ...]:
        """Each text once, however many pairs it is in."""
        return tuple(dict.fromkeys(text for pair in self.pairs for text in pair))

    @property
    def queries(self) -> tuple[str, ...]:
        return ()

    @property
    def items(self) -> int:
        return len(self.pairs)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Whether texts recur so much that pairs are no longer independent."""
        if not self._shared:
            return ()
        return (
            f"{len(self.documents):,} texts make up the {len(self.pairs):,} pairs, so pairs are not independent "
            "of each other; intervals are drawn from texts, and both parts know the same texts",
        )

    @property
    def _shared(self) -> bool:
        return 2 * len(self.pairs) > 1.5 * len(self.documents)

    def split(self, seed: int) -> Split:
        """Halves of the pairs.

        Raises:
            InputError: there are too few, or all scores in one half are the same.
        """
        split = halves(self.items, seed=seed, least=_LEAST, what="pairs")
        for part in (split.validation, split.held_out):
            if len({self.scores[place] for place in part}) == 1:
                raise InputError(
                    f"with seed {seed}, every pair of one part has the same score; choose another seed, or add pairs"
                )
        return split

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Correlation:
        """The similarity of every pair, beside people's."""
        del split  # nothing is learnt
        places = {text: place for place, text in enumerate(self.documents)}
        left, right = (vectors.documents[[places[pair[side]] for pair in self.pairs]] for side in (0, 1))
        predicted = np.asarray(embedder.similarity_pairwise(left, right), np.float64)
        texts = np.array([[places[text] for text in pair] for pair in self.pairs]) if self._shared else None
        wanted = np.asarray(self.scores, np.float64)
        return Correlation(predicted, wanted, ranked=self.measure == "Spearman", texts=texts)

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Tokens of the longer text of each pair."""
        tokens = dict(zip(self.documents, count(self.documents), strict=True))
        return np.array([max(tokens[left], tokens[right]) for left, right in self.pairs], np.float64)
