"""Learned temperatures against the best scalar: the choice never sees the scored texts, and gains are paired."""

import dataclasses

import numpy as np
import pytest

from tests.support.fakes import FakeEmbedder, texts
from tsjax.lab.evaluation import Retrieval, grid
from tsjax.lab.evaluation.bootstrap import paired_difference
from tsjax.lab.evaluation.outcomes import score
from tsjax.lab.evaluation.tasks import Vectors
from tsjax.lab.learning.comparison import compare_learned
from tsjax.lab.learning.corpora import Corpus
from tsjax.temperature import Temperature

GRID = grid([1.0, 0.9, 0.8, 0.7])


def embedder(temperature=1.0, **options):
    made = FakeEmbedder(**options)
    made.temperature = Temperature(temperature)
    return made


def corpus(name="corpus", count=96, seed=0):
    return Corpus(
        name, Retrieval(texts(count, seed), texts(count, seed + 1), tuple({i: 1} for i in range(count)), "R@10")
    )


def spoilt(of, seed):
    """Return a task with other answers to the held-out queries."""
    relevant = list(of.task.relevant)
    held_out = of.task.split(seed).held_out
    for place, other in zip(held_out, np.roll(held_out, 7), strict=True):
        relevant[place] = of.task.relevant[other]
    return dataclasses.replace(of, task=dataclasses.replace(of.task, relevant=tuple(relevant)))


def compared(*corpora, unseen=(), seed=0):
    rows = compare_learned(embedder(), embedder(1.4, noise=0.5), corpora, unseen, GRID, seed=seed)
    return {(row.corpus, row.name): row for row in rows}


@pytest.mark.parametrize("seed", range(4))
def test_the_best_scalar_is_chosen_without_the_held_out_queries(seed):
    before, after = compared(corpus(), seed=seed), compared(spoilt(corpus(), seed), seed=seed)
    chosen = before["corpus", "best scalar"].temperature
    assert chosen == after["corpus", "best scalar"].temperature == "0.8"
    for name in ("none", "best scalar", "learned"):
        assert before["corpus", name].score != after["corpus", name].score


def test_what_is_unseen_chooses_nothing_and_is_scored_whole():
    rows = compared(corpus(), unseen=[spoilt(corpus("other", 120, 5), 0)])
    assert rows["other", "best scalar"].temperature == rows["corpus", "best scalar"].temperature
    assert (rows["corpus", "none"].queries, rows["other", "none"].queries) == (48, 120)
    assert (rows["corpus", "none"].seen, rows["other", "none"].seen) == (True, False)


def test_gains_are_those_on_the_same_held_out_queries():
    own = corpus()
    rows = compared(own, seed=3)
    split = own.task.split(3)

    def outcome(model, tau):
        vectors = Vectors(
            documents=model.encode_document(own.task.documents, temperature=tau, show_progress_bar=False),
            queries=model.encode_query(own.task.queries, temperature=tau, show_progress_bar=False),
        )
        return own.task.outcome(vectors, split, model)

    none, scalar, learned = outcome(embedder(), 1.0), outcome(embedder(), 0.8), outcome(embedder(noise=0.5), 1.4)
    row = rows["corpus", "learned"]
    assert row.score == score(learned, split.held_out)
    assert row.gain == paired_difference(learned, none, split.held_out, seed=3)
    assert row.over_scalar.difference
    assert row.over_scalar == paired_difference(learned, scalar, split.held_out, seed=3)
    assert rows["corpus", "best scalar"].gain == paired_difference(scalar, none, split.held_out, seed=3)
    assert rows["corpus", "best scalar"].over_scalar is None
