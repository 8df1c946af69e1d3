"""Measures that come from libraries, computed again by brute force, with ties and blocks."""

import json
import math

import numpy as np
import pytest

from tests.support.fakes import FakeEmbedder, texts
from tests.support.lazy import lazy
from tsjax.encoders.similarity import top_indices
from tsjax.errors import InputError
from tsjax.lab.evaluation import STS, Classification, Clustering, Retrieval, ranking, read_retrieval
from tsjax.lab.evaluation.bootstrap import paired_difference
from tsjax.lab.evaluation.outcomes import Means, score
from tsjax.lab.evaluation.tasks import Vectors

LogisticRegression = lazy("sklearn.linear_model", "LogisticRegression")
pearsonr, spearmanr = lazy("scipy.stats", "pearsonr", "spearmanr")
f1_score, v_measure_score = lazy("sklearn.metrics", "f1_score", "v_measure_score")


def by_hand(order, grades, measure, k):
    gains = [grades.get(place, 0) for place in order[:k]]
    match measure:
        case "MRR":
            return next((1 / rank for rank, gain in enumerate(gains, 1) if gain), 0.0)
        case "R":
            return sum(gain > 0 for gain in gains) / len(grades)
        case "P":
            return sum(gain > 0 for gain in gains) / k
        case "Success":
            return float(any(gains))
        case "MAP":
            hits = [rank for rank, gain in enumerate(gains, 1) if gain]
            return sum((i + 1) / rank for i, rank in enumerate(hits)) / len(grades)
        case "nDCG":

            def dcg(values):
                return sum(value / math.log2(rank + 1) for rank, value in enumerate(values, 1))

            return dcg(gains) / dcg(sorted(grades.values(), reverse=True)[:k])


@pytest.mark.parametrize("k", [1, 3, 10, 100])
@pytest.mark.parametrize("measure", ["MRR", "nDCG", "R", "P", "MAP", "Success"])
def test_retrieval_measures_are_those_of_brute_force(monkeypatch, measure, k):
    monkeypatch.setattr(ranking, "_QUERIES", 5)
    monkeypatch.setattr(ranking, "_DOCUMENTS", 7)
    rng = np.random.default_rng(k)
    # Integers make many similarities equal.
    queries, documents = (rng.integers(-2, 3, (n, 3)).astype("f4") for n in (23, 40))
    relevant = tuple(
        {int(p): int(rng.integers(1, 4)) for p in rng.choice(40, rng.integers(1, 5), replace=False)} for _ in range(23)
    )
    task = Retrieval(texts(40), texts(23, 1), relevant, f"{measure}@{k}")

    class Dot:
        def similarity(self, a, b):
            return a @ b.T

    outcome = task.outcome(Vectors(documents, queries), None, Dot())
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
    expected = [by_hand(row.tolist(), grades, measure, k) for row, grades in zip(order, relevant, strict=True)]
    np.testing.assert_allclose(outcome.values[0], expected, rtol=0, atol=1e-7)
    assert task.measure == f"{measure}@{k}"


def test_a_model_that_finds_all_alike_scores_like_chance():
    """The relevant document of each query is another one, so ties in the corpus's order favour no query."""
    task = Retrieval(texts(50), texts(50, 1), tuple({i: 1} for i in range(50)), "MRR@10")
    alike = Vectors(np.ones((50, 4), "f4"), np.ones((50, 4), "f4"))
    outcome = task.outcome(alike, None, FakeEmbedder())
    assert score(outcome, np.arange(50)) == pytest.approx(sum(1 / r for r in range(1, 11)) / 50)


def test_blocks_give_what_one_sort_gives(monkeypatch):
    rng = np.random.default_rng(0)
    queries, documents = (rng.integers(-1, 2, (n, 4)).astype("f4") for n in (31, 333))
    whole = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
    for size in (1, 10, 50, 1000):
        monkeypatch.setattr(ranking, "_DOCUMENTS", size)
        monkeypatch.setattr(ranking, "_QUERIES", 4)
        for k in (1, 10, 400):
            np.testing.assert_array_equal(ranking.top(queries, documents, k, lambda a, b: a @ b.T), whole[:, :k])


def test_the_highest_are_those_of_one_stable_sort():
    rng = np.random.default_rng(0)
    for n in (0, 1, 7, 200):
        scores = rng.integers(0, 5, n).astype("f4")
        scores[rng.random(n) < 0.2] = np.nan
        for k in (1, 3, 150, 400):
            np.testing.assert_array_equal(top_indices(scores, k), np.argsort(-scores, kind="stable")[:k])


def test_correlations_are_scipys(recwarn):
    pairs = tuple(zip(texts(60), texts(60, 1), strict=True))
    wanted = np.random.default_rng(1).integers(0, 6, 60).astype(float)
    embedder = FakeEmbedder()
    for name, measure in {"spearman": spearmanr, "PEARSON": pearsonr}.items():
        task = STS(pairs, tuple(wanted), name)
        vectors = embedder.encode(task.documents, temperature=1.0, show_progress_bar=False)
        outcome = task.outcome(Vectors(vectors, vectors[:0]), None, embedder)
        for items in (np.arange(60), np.array([3, 3, 9, 12, 40, 40, 41])):
            expected = measure(outcome.predicted[items], wanted[items]).statistic
            assert score(outcome, items) == pytest.approx(expected, abs=1e-9)
        assert score(outcome, np.array([5, 5, 5])) == 0
        assert math.isnan(score(outcome, np.array([5, 6])))


def labelled_vectors(noise, count=120):
    rng = np.random.default_rng(2)
    labels = tuple(f"label {i % 4}" for i in range(count))
    vectors = np.eye(4)[np.arange(count) % 4] + noise * rng.standard_normal((count, 4))
    return texts(count), labels, Vectors(vectors.astype("f4"), np.zeros((0, 4), "f4"))


def test_classification_is_logistic_regression_on_training_texts_alone():
    documents, labels, vectors = labelled_vectors(0.5)
    codes = np.arange(120) % 4
    for measure in ("accuracy", "macro-F1"):
        task = Classification(documents, labels, measure, samples_per_label=5, experiments=3)
        split = task.split(0)
        outcome = task.outcome(vectors, split, FakeEmbedder())
        expected = []
        for run in range(3):
            sample = task._sample(split.training, run)
            assert set(sample) <= set(split.training)
            assert np.bincount(codes[sample]).tolist() == [5, 5, 5, 5]
            model = LogisticRegression(max_iter=100).fit(vectors.documents[sample], codes[sample])
            found, true = model.predict(vectors.documents[split.held_out]), codes[split.held_out]
            expected.append(np.mean(found == true) if measure == "accuracy" else f1_score(true, found, average="macro"))
        assert score(outcome, split.held_out) == pytest.approx(np.mean(expected))
        assert len(set(expected)) > 1


def test_clustering_is_v_measure_of_each_part():
    documents, labels, vectors = labelled_vectors(0.6)
    task = Clustering(documents, labels, experiments=4)
    split = task.split(0)
    outcome = task.outcome(vectors, split, FakeEmbedder())
    true = np.arange(120) % 4
    for part in (split.validation, split.held_out):
        each = [v_measure_score(true[part], row[part]) for row in outcome.predicted]
        assert score(outcome, part) == pytest.approx(np.mean(each))
        assert 0 < np.mean(each) < 1
    changed = vectors.documents.copy()
    changed[split.held_out] *= -3
    again = task.outcome(Vectors(changed, vectors.queries), split, FakeEmbedder())
    np.testing.assert_array_equal(again.predicted[:, split.validation], outcome.predicted[:, split.validation])
    assert math.isnan(score(outcome, np.flatnonzero(true == 1)))


@pytest.mark.parametrize("measure", ["nDCG", "MRR@0", "MRR@x", "F1@10", "@10", None])
def test_an_unknown_measure_is_refused(measure):
    with pytest.raises(InputError, match="retrieval has no measure .* such as MRR@10"):
        Retrieval(("a", "b"), ("c",), ({0: 1},), measure)
    with pytest.raises(InputError, match="it has Spearman, Pearson"):
        STS((("a", "b"),), (1.0,), measure)


def test_a_query_that_is_a_document_is_not_its_own_answer(tmp_path):
    """In BEIR's ArguAna, too, the document with the query's id is not searched, unless it is judged relevant."""
    texts = {"a": "one", "b": "two", "c": "three"}
    (tmp_path / "qrels").mkdir()
    for name in ("corpus", "queries"):
        rows = "".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts.items())
        (tmp_path / f"{name}.jsonl").write_text(rows)
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na\tb\t1\nb\ta\t1\nc\tc\t1\n")
    task = read_retrieval(tmp_path)
    assert task.itself == (0, 1, -1)
    assert task.notes == ("documents with the id of a query, 2 of them, were not searched for it, as BEIR does",)
    vectors = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 1]], np.float32)

    class Cosine:
        @staticmethod
        def similarity(one, other):
            return one @ other.T

    values = task.outcome(Vectors(vectors, vectors), task.split(0) if task.items > 3 else None, Cosine()).values
    np.testing.assert_array_equal(values, [[1, 1, 1]])


def test_queries_of_one_text_are_in_one_part():
    queries = tuple(f"Question {i // 2}" if i % 2 else f"question  {i // 2} " for i in range(40))
    task = Retrieval(tuple(f"d{i}" for i in range(40)), queries, tuple({i: 1} for i in range(40)))
    split = task.split(0)
    assert len(split.validation) + len(split.held_out) == 40
    words = [{queries[i].split()[1] for i in part} for part in (split.validation, split.held_out)]
    assert not words[0] & words[1]


def test_an_interval_knows_which_queries_are_one_text():
    for queries, expected in ((texts(6), None), (("a", "b", "A", "c", " a", "d"), [[0], [1], [0], [2], [0], [3]])):
        task = Retrieval(texts(6, 1), queries, tuple({i: 1} for i in range(6)))
        vectors = Vectors(np.eye(6, dtype="f4"), np.eye(6, dtype="f4"))
        outcome = task.outcome(vectors, task.split(0), FakeEmbedder())
        assert (outcome.texts if outcome.texts is None else outcome.texts.tolist()) == expected


@pytest.mark.parametrize(("items", "differing", "verdict"), [(9, 9, 0), (200, 5, 0), (200, 30, 1)])
def test_too_few_items_tell_nothing(items, differing, verdict):
    before, after = np.zeros((2, 1, items))
    after[0, :differing] = 1
    gain = paired_difference(Means(after), Means(before), np.arange(items), seed=0)
    assert gain.verdict == verdict
