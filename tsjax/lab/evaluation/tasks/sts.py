"""Semantic textual similarity task: correlate the similarities of pairs of texts with people's judgements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tsjax.errors import InputError
from tsjax.lab.evaluation.copies import entangled, groups, repeats, same_text
from tsjax.lab.evaluation.outcomes import Correlation
from tsjax.lab.evaluation.split import Split, split_groups_in_half, split_in_half
from tsjax.lab.evaluation.tasks.task import chosen_measure
from tsjax.wording import counted

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from tsjax.lab.evaluation.tasks.task import CountTokens, Encoder, Vectors

_LEAST = 5  # pairs in a part; resamples of fewer pairs are too often all the same


@dataclass(frozen=True)
class STS:
    """Pairs of texts with people's judgements of their similarity.

    Equal texts (see `tsjax.lab.evaluation.copies.same_text`) are one text, and no text is in both parts of a split.
    Pairs that share texts, directly or through other pairs, are in one part and are drawn together in every interval.
    Where nearly all pairs are connected in this way, as all pairs of a set of texts are, the texts are split in halves
    instead. Pairs with a text in either half are then in no part, and intervals are drawn from texts.

    Attributes:
        pairs: two texts each.
        scores: people's judgement of each pair, on any scale; higher is more similar.
        measure: Spearman or Pearson, correlations as scipy computes them.

    Raises:
        InputError: scores are not finite or are all the same, or the numbers of pairs and scores differ.
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
            raise InputError(f"{counted(len(self.pairs), 'pair')} cannot have {counted(len(self.scores), 'score')}")
        for place, value in enumerate(self.scores):
            if not math.isfinite(value):
                raise InputError(f"pair {place} has the score {value}, which is not a finite number")
        if len(set(self.scores)) == 1:
            raise InputError(f"every pair has the score {self.scores[0]:g}; a correlation needs scores that differ")

    @cached_property
    def documents(self) -> tuple[str, ...]:
        """Return each text once, even if it is in several pairs."""
        return tuple(dict.fromkeys(text for pair in self.pairs for text in pair))

    @property
    def queries(self) -> tuple[str, ...]:
        return ()

    @property
    def items(self) -> int:
        return len(self.pairs)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    @cached_property
    def sharing(self) -> tuple[str, ...]:
        """Return sentences on texts that pairs share, and on the effect on the split and the intervals."""
        made = f"{1 + self._texts.max():,} different texts make up the {self.items:,} pairs"
        if entangled(self._groups):
            return (
                f"{made}, so the texts are split in halves, pairs with a text in either half are in no part, and "
                "intervals are drawn from texts",
            )
        if together := int(repeats(self._groups).sum()):
            return (
                f"{made}, and the pairs make {counted(self.items - together, 'group')} without a common text; a "
                "group is "
                "in one part and is drawn whole",
            )
        return ()

    @cached_property
    def _texts(self) -> Int[np.ndarray, "items 2"]:
        """Return the numbers of each pair's texts."""
        keys = {text: same_text(text) for text in self.documents}
        number = {key: place for place, key in enumerate(dict.fromkeys(keys.values()))}
        return np.array([[number[keys[text]] for text in pair] for pair in self.pairs])

    @cached_property
    def _groups(self) -> Int[np.ndarray, " items"]:
        return groups([str(text) for text in pair] for pair in self._texts.tolist())

    def split(self, seed: int) -> Split:
        """Split the pairs in halves that share no text.

        Raises:
            InputError: there are too few pairs, or all scores in one half are the same.
        """
        if entangled(self._groups):
            split = self._split_texts(seed)
        else:
            what = "groups of pairs that share no text" if repeats(self._groups).any() else "pairs"
            split = split_groups_in_half(self._groups, seed=seed, min_items=_LEAST, item_name=what)
        for part in (split.validation, split.held_out):
            if len({self.scores[place] for place in part}) == 1:
                raise InputError(
                    f"with seed {seed}, every pair of one part has the same score; choose another seed, or add pairs"
                )
        return split

    def _split_texts(self, seed: int) -> Split:
        """Split the texts in halves; return the pairs within each half and those between the halves."""
        of_texts = split_in_half(1 + self._texts.max(), seed=seed, min_items=1, item_name="different texts")
        inside = np.isin(self._texts, of_texts.held_out).sum(axis=1)
        parts = [np.flatnonzero(inside == count) for count in (0, 2, 1)]
        if min(map(len, parts[:2])) < _LEAST:
            raise InputError(
                f"{self.items} pairs cannot be split so that no text is in both parts: with seed {seed} the halves of "
                f"their {1 + self._texts.max()} different texts have {len(parts[0])} and "
                f"{counted(len(parts[1]), 'pair')}, "
                f"and need at least {_LEAST} each; add pairs of other texts"
            )
        return Split(parts[0], parts[1], of_texts.training, between=parts[2])

    def outcome(self, vectors: Vectors, split: Split, embedder: Encoder) -> Correlation:
        """Return the similarity of every pair, with people's judgement."""
        del split  # nothing is learned
        places = {text: place for place, text in enumerate(self.documents)}
        left, right = (vectors.documents[[places[pair[side]] for pair in self.pairs]] for side in (0, 1))
        predicted = np.asarray(embedder.similarity_pairwise(left, right), np.float64)
        texts = None
        if entangled(self._groups):
            texts = self._texts
        elif repeats(self._groups).any():
            texts = self._groups[:, None]
        wanted = np.asarray(self.scores, np.float64)
        return Correlation(predicted, wanted, ranked=self.measure == "Spearman", texts=texts)

    def lengths(self, count: CountTokens) -> Float[np.ndarray, " items"]:
        """Return the number of tokens of the longer text of each pair."""
        tokens = dict(zip(self.documents, count(self.documents), strict=True))
        return np.array([max(tokens[left], tokens[right]) for left, right in self.pairs], np.float64)
