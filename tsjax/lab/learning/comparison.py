"""Comparison of learned temperatures with alternatives: no temperature, the best scalar, the best law of length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tsjax.lab.evaluation.bootstrap import Interval, paired_difference
from tsjax.lab.evaluation.candidates import BASELINE, Candidate
from tsjax.lab.evaluation.embedding import Embedding
from tsjax.lab.evaluation.outcomes import score
from tsjax.lab.evaluation.split import whole
from tsjax.lab.evaluation.sweeping import choose, with_baseline
from tsjax.lab.learning.corpora import scored_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tsjax.encoders.embedder import Embedder
    from tsjax.lab.evaluation.outcomes import Outcome
    from tsjax.lab.learning.corpora import Corpus


@dataclass(frozen=True)
class ComparisonRow:
    """Result of one way of choosing temperatures on one corpus.

    Attributes:
        corpus: the name of the corpus.
        seen: whether it was learned from; its held-out queries are then scored, otherwise all queries.
        queries: the number of scored queries.
        name: none, best scalar, best law, or learned.
        temperature: the temperature as text.
        score: the score, 0 to 1.
        gain: the gain over none.
        over_scalar: for the learned temperature, the gain over the best scalar; else None.
    """

    corpus: str
    seen: bool
    queries: int
    name: str
    temperature: str
    score: float
    gain: Interval
    over_scalar: Interval | None = None


def compare_learned(
    embedder: Embedder,
    learned: Embedder,
    corpora: Sequence[Corpus],
    unseen: Sequence[Corpus],
    candidates: Sequence[Candidate],
    *,
    seed: int,
    report: Callable[[str], object] = lambda message: None,
    show_progress_bar: bool = False,
) -> list[ComparisonRow]:
    """Score the learned model on queries that were used neither for learning nor for any choice.

    The best scalar and the best law are those with the highest mean score over the queries that learning had, the
    validation queries included. The same ones are used on corpora that were not learned from.

    Args:
        embedder: the model before learning.
        learned: the model after learning, with its temperature.
        corpora: the corpora that were learned from; their held-out halves are scored.
        unseen: other corpora, scored on all queries.
        candidates: scalars and laws to choose from; see `tsjax.lab.evaluation.grid`.
        seed: the seed of the splits, which must be that of `Corpus.split`, and of the intervals.
        report: called with progress messages.
        show_progress_bar: whether to show a bar for each embedding.
    """
    candidates = with_baseline(candidates)

    scored = scored_texts(corpora, unseen, seed)

    def outcomes(encoder: Embedder, corpus: Corpus, some: Sequence[Candidate | None]) -> list[Outcome]:
        temperatures = [encoder.temperature if one is None else one.temperature for one in some]
        embedding = Embedding(
            encoder,
            corpus.task,
            report=lambda message: report(f"{corpus.name}: {message}"),
            show_progress_bar=show_progress_bar,
        )
        found = {}
        for place, vectors in embedding.pairs(temperatures):
            found[place] = corpus.task.outcome(vectors, whole(corpus.task.items), encoder)
        return [found[place] for place in range(len(temperatures))]

    seen = [outcomes(embedder, corpus, candidates) for corpus in corpora]
    validation = np.mean(
        [
            [score(outcome, corpus.half(seed, scored)) for outcome in found]
            for corpus, found in zip(corpora, seen, strict=True)
        ],
        axis=0,
    )
    chosen = {}
    for name, own in (
        ("best scalar", [one for one in candidates if one.law == "none"]),
        ("best law", [one for one in candidates if one.law != "none"]),
    ):
        if len(own) > (name == "best scalar"):  # the baseline is a scalar
            chosen[name] = own[choose(own, [float(validation[candidates.index(one)]) for one in own])]
    rows = []
    for corpus, found in zip(corpora, seen, strict=True):
        kept = {name: found[candidates.index(one)] for name, one in chosen.items()}
        (after,) = outcomes(learned, corpus, [None])
        items = corpus.task.split(seed).held_out
        rows += _rows(corpus.name, items, found[0], kept, after, chosen, learned, seed=seed, seen=True)
    for corpus in unseen:
        before, *others = outcomes(embedder, corpus, [BASELINE, *chosen.values()])
        (after,) = outcomes(learned, corpus, [None])
        kept = dict(zip(chosen, others, strict=True))
        items = np.arange(corpus.task.items)
        rows += _rows(corpus.name, items, before, kept, after, chosen, learned, seed=seed, seen=False)
    return rows


def _rows(
    corpus: str,
    items: np.ndarray,
    before: Outcome,
    kept: dict[str, Outcome],
    after: Outcome,
    chosen: dict[str, Candidate],
    learned: Embedder,
    *,
    seed: int,
    seen: bool,
) -> list[ComparisonRow]:
    def row(name: str, temperature: str, outcome: Outcome, over: Interval | None = None) -> ComparisonRow:
        gain = paired_difference(outcome, before, items, seed=seed)
        return ComparisonRow(corpus, seen, len(items), name, temperature, score(outcome, items), gain, over)

    rows = [row("none", "1", before)]
    rows += [row(name, str(chosen[name].temperature), outcome) for name, outcome in kept.items()]
    scalar = kept.get("best scalar")
    over = None if scalar is None else paired_difference(after, scalar, items, seed=seed)
    return [*rows, row("learned", str(learned.temperature), after, over)]
