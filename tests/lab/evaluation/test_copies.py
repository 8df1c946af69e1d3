"""Equal texts count as one: in every task, on one side of every split, and drawn together in every interval."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from tests.support.fakes import FakeEmbedder, texts, write_lines
from tsjax.errors import InputError
from tsjax.lab.evaluation import STS, Classification, Clustering, Retrieval, bootstrap, grid, read_classification, sweep
from tsjax.lab.evaluation.bootstrap import independent, paired_difference
from tsjax.lab.evaluation.copies import entangled, groups, same_text
from tsjax.lab.evaluation.outcomes import Correlation, Labels, Means, score
from tsjax.lab.evaluation.report import content, lines
from tsjax.lab.evaluation.sweeping import choose
from tsjax.lab.evaluation.tasks import Vectors


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A  b\n", "a b"),
        (
            "\u03c0\u03c1\u03c9\u03c4\u03b5\u0390\u03bd\u03b7",
            "\u03c0\u03c1\u03c9\u03c4\u03b5\u0390\u03bd\u03b7".upper(),
        ),
        ("cafe\u0301", "cafe\u200b\u0301"),
        ("Stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("\ufb01ne\u00a0print", "fine print"),
        ("\ufeffco\u00adop\u200b", "coop"),
    ],
)
def test_what_makes_no_other_text(one, other):
    assert same_text(one) == same_text(other)


def test_what_makes_another_text():
    assert len({same_text(text) for text in ("a b", "ab", "a, b", "\u00e0 b", "")}) == 5


def test_items_that_share_a_text_through_others_are_one_group():
    assert groups([["a"], ["b", "c"], ["d"], ["c", "e"], ["e", "a"], ["d"], []]).tolist() == [0, 0, 1, 0, 0, 1, 2]
    assert groups([]).tolist() == []


def test_items_that_nearly_all_hang_together_are_entangled():
    assert not entangled(np.arange(2))
    assert not entangled(np.repeat(np.arange(40), 25))
    assert entangled(np.zeros(9, int))
    assert entangled(np.repeat([0, *range(1, 30)], [31, *[1] * 29]))
    assert entangled(np.repeat(np.arange(8), 25))


def copied(count=36, most=9, seed=0):
    """Return between 1 and `most` copies of each of `count` texts, written a little differently, in any order."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(count), rng.integers(1, most + 1, count)))
    written = [lambda text: text, str.upper, lambda text: f" {text}\t", lambda text: text.replace(" ", "  ")]
    return which, tuple(written[rng.integers(4)](f"text number {place}") for place in which)


def task_of(kind, which, written, rng):
    """Return a task in which the texts, scores, labels or relevant documents mean nothing."""
    count = 1 + which.max()
    labels = tuple("xy"[code] for code in rng.permutation(np.arange(count) % 2)[which])
    match kind:
        case "retrieval":
            relevant = tuple({int(place): 1} for place in rng.permutation(count)[which])
            return Retrieval(tuple(f"document {place}" for place in range(count)), written, relevant)
        case "sts":
            pairs = tuple((text, f"other {place}") for text, place in zip(written, which, strict=True))
            return STS(pairs, tuple(rng.standard_normal(count)[which]))
        case "clustering":
            return Clustering(written, labels, experiments=1)
    return Classification(written, labels, measure=kind, experiments=1 if kind == "macro-F1" else 3)


KINDS = ("retrieval", "sts", "clustering", "accuracy", "macro-F1")


def item_texts(task):
    """Return the texts of each item that no other part may have."""
    if isinstance(task, STS):
        return [{same_text(text) for text in pair} for pair in task.pairs]
    if isinstance(task, Retrieval):
        relevant = [[task.documents[place] for place in grades] for grades in task.relevant]
        return [{same_text(text) for text in (query, *own)} for query, own in zip(task.queries, relevant, strict=True)]
    return [{same_text(text)} for text in task.documents]


def parts_of(task, seed):
    split = task.split(seed)
    own = item_texts(task)
    return split, [
        set().union(*(own[item] for item in part)) for part in (split.validation, split.held_out, split.training)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_no_text_is_in_two_parts(kind, seed):
    task = task_of(kind, *copied(seed=seed), np.random.default_rng(seed))
    split, parts = parts_of(task, seed)
    assert len(split.validation) + len(split.held_out) + len(split.training) == task.items
    assert all(parts[:2])
    for one, other in itertools.combinations(parts, 2):
        assert not one & other
    assert any("drawn" in note for note in task.sharing)


@pytest.mark.parametrize("kind", KINDS)
def test_without_copies_nothing_is_said_and_items_are_drawn(kind):
    which = np.arange(30)
    task = task_of(kind, which, tuple(f"text {place}" for place in which), np.random.default_rng(0))
    assert task.sharing == ()
    assert outcomes_of(task, np.random.default_rng(1), 1)[1][0].texts is None


class Dot:
    """A similarity by dot product."""

    @staticmethod
    def similarity(one, other):
        return one @ other.T

    @staticmethod
    def similarity_pairwise(one, other):
        return (one * other).sum(axis=1)


def outcomes_of(task, rng, models):
    """Return the outcomes of models whose vectors also mean nothing; copies have one vector."""
    split = task.split(0)

    def vectors(some):
        own = {key: rng.standard_normal(6) for key in dict.fromkeys(map(same_text, some))}
        return np.array([own[same_text(text)] for text in some], np.float32).reshape(len(some), 6)

    made = [Vectors(vectors(task.documents), vectors(task.queries)) for _ in range(models)]
    return split, [task.outcome(one, split, Dot()) for one in made]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_on_labels_that_mean_nothing_no_gain_is_beyond_noise_too_often(kind, monkeypatch):
    """One in twenty 95 % intervals is beyond noise; if copies count as independent, many more are."""
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 400)
    trials = {"clustering": 8, "macro-F1": 8, "sts": 16}.get(kind, 50)  # Some kinds are costly.
    beyond = alone = 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        which, written = copied(45, 7, seed=trial)
        split, (one, other) = outcomes_of(task_of(kind, which, written, rng), rng, 2)
        beyond += paired_difference(one, other, split.held_out, seed=trial).verdict != 0
        if kind != "clustering":  # The V-measures of drawn texts differ too much from each other to be beyond noise.
            one, other = (dataclasses.replace(outcome, texts=None) for outcome in (one, other))
            alone += paired_difference(one, other, split.held_out, seed=trial).verdict != 0
    assert beyond <= 0.1 * trials
    assert alone >= 0.3 * trials or kind == "clustering"


def of_each(kind, count, copies, seed=0):
    """Return two outcomes on `count` items with `copies` copies each."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(count), copies)
    group = which[:, None] if copies > 1 else None
    if kind == "means":
        return [Means(rng.integers(0, 2, (4, count)).astype(float)[:, which], group) for _ in range(2)]
    if kind == "correlation":
        wanted = rng.standard_normal(count)
        return [Correlation(rng.standard_normal(count)[which], wanted[which], False, group) for _ in range(2)]
    wanted = rng.integers(0, 3, count)
    same = {"measure": lambda a, b: float(np.mean(a == b)), "texts": group}
    return [Labels(wanted[which], rng.integers(0, 3, (2, count))[:, which], **same) for _ in range(2)]


@pytest.mark.parametrize("kind", ["means", "correlation", "labels"])
def test_copies_of_every_item_change_no_interval(kind, monkeypatch):
    for name, value in {"_RESAMPLES": 200, "_RESAMPLES_IF_COSTLY": 200, "_NUMBERS_AT_ONCE": 10**9}.items():
        monkeypatch.setattr(bootstrap, name, value)  # the same draws for both
    once, often = (paired_difference(*of_each(kind, 24, copies), np.arange(24 * copies), seed=3) for copies in (1, 25))
    got, expected = ([one.difference, one.low, one.high] for one in (often, once))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert often.telling == once.telling


def test_runs_are_drawn_also_where_texts_are_shared():
    """The two runs differ much: drawing only texts would not show it."""
    values = np.repeat([[0.2], [0.8], [0.4], [0.6]], 60, axis=1) + 0.01 * np.random.default_rng(0).random((4, 60))
    group = np.repeat(np.arange(20), 3)[:, None]
    interval = paired_difference(Means(values, group), Means(np.zeros((4, 60)), group), np.arange(60), seed=0)
    assert interval.difference == pytest.approx(0.5, abs=0.01)
    assert interval.low < 0.35
    assert interval.high > 0.65


def test_few_texts_with_many_copies_tell_nothing():
    """Four of forty-four texts are nearly all items. By chance, all four gain in one case of eight."""
    group = np.repeat(np.arange(44), [100] * 4 + [1] * 40)[:, None]
    values = np.zeros((1, 440))
    values[0, :400] = 1
    after, before = Means(values, group), Means(np.zeros((1, 440)), group)
    assert independent(after, np.arange(440)) == pytest.approx(440**2 / 40_040)
    assert not paired_difference(after, before, np.arange(440), seed=0).telling
    assert independent(Means(np.zeros((1, 75)), np.repeat(np.arange(25), 3)[:, None]), np.arange(75)) == 25


def test_few_items_that_differ_tell_nothing_in_every_measure():
    rng = np.random.default_rng(0)
    wanted = np.arange(200) % 2
    before = rng.permuted(wanted)[None]
    after = before.copy()
    wrong = np.flatnonzero(before[0] != wanted)[:5]
    after[0, wrong] = wanted[wrong]
    accuracy = lambda a, b: float(np.mean(a == b))  # noqa: E731
    gain = paired_difference(Labels(wanted, after, accuracy), Labels(wanted, before, accuracy), np.arange(200), seed=0)
    assert gain.difference > 0
    assert gain.verdict == 0


def test_few_items_are_not_trusted_as_many_are(monkeypatch):
    """The plain percentiles of twelve items contain a difference of zero far less often than 95 times in 100."""
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 1000)
    rng = np.random.default_rng(5)
    trials = 200
    beyond = sum(
        paired_difference(Means(rng.standard_normal((1, 12))), Means(np.zeros((1, 12))), np.arange(12), seed=0).verdict
        != 0
        for _ in range(trials)
    )
    assert beyond <= 0.06 * trials


def test_a_classifier_learns_from_different_texts():
    written = tuple(f"{label} {place}" for label in "xy" for place in range(12) for _ in range(10))
    task = Classification(written, tuple(text[0] for text in written), samples_per_label=3)
    split = task.split(0)
    for run in range(5):
        sample = [written[place] for place in task._sample(split.training, run)]
        assert len(set(sample)) == len(sample) == 6


def test_a_text_of_several_labels_is_in_one_part():
    written = (*(f"both {place}" for place in range(9)), *(f"text {place}" for place in range(30)))
    task = Classification((*written, *written[:9]), (*"x" * 9, *"xy" * 15, *"z" * 9))
    assert "9 of the different texts have more than one label" in task.sharing
    for seed in range(5):
        split, parts = parts_of(task, seed)
        assert not any(one & other for one, other in itertools.combinations(parts, 2))
        for part in (split.validation, split.held_out, split.training):
            assert {task.labels[place] for place in part} == {"x", "y", "z"}


def test_labels_without_texts_of_their_own_are_refused():
    few = Classification((*["again"] * 20, *texts(20)), (*"x" * 20, *"y" * 20))
    with pytest.raises(InputError, match="label 'x' has 1 different text; each needs at least 3"):
        few.split(0)
    # Both texts with the label y also have a rarer label, by which they are split, and so may be in one part.
    mixed = Clustering(("1", "1", "2", "2", "3", "4", "5", "6"), (*"yzyz", *"zxxx"))
    found = []
    for seed in range(12):
        try:
            found.append({mixed.labels[place] for place in mixed.split(seed).held_out} >= {*"xyz"})
        except InputError as error:
            found.append(str(error))
    assert True in found
    assert all("label" in one for one in found if one is not True)


def test_labels_that_look_alike_are_refused(tmp_path):
    for other in ("a ", "a\u00a0", " a"):
        with pytest.raises(InputError, match="differ only in white space"):
            Clustering(("1", "2", "3"), ("a", "b", other))
    with pytest.raises(InputError, match=r"texts\.jsonl: labels .* differ only"):
        rows = [{"text": str(place), "label": label} for place, label in enumerate(["\u00e9", "e\u0301"] * 3)]
        read_classification(write_lines(tmp_path / "texts.jsonl", rows))
    assert Clustering(("1", "2"), ("a", "a\0")).codes.tolist() == [0, 1]


def test_pairs_of_some_texts_are_split_by_their_texts():
    """All pairs of some texts are given: no half of the pairs has its own texts."""
    known = [f"text {place}" for place in range(14)]
    pairs = tuple(itertools.combinations(known, 2))
    task = STS(pairs, tuple(float(place % 7) for place in range(len(pairs))))
    split, (validation, held_out, _) = parts_of(task, 0)
    assert not validation & held_out
    assert len(split.validation) == len(split.held_out) == 21
    assert len(split.between) == 49
    assert split.part("all").tolist() == list(range(91))
    assert "the texts are split in halves" in task.sharing[0]
    vectors = np.random.default_rng(0).standard_normal((14, 4)).astype("f4")
    outcome = task.outcome(Vectors(vectors, vectors[:0]), split, Dot())
    assert outcome.texts.shape == (91, 2)
    assert independent(outcome, split.held_out) == 7


def test_pairs_that_share_a_text_now_and_then_stay_together():
    pairs = [(f"left {place}", f"right {place}") for place in range(30)]
    pairs += [("LEFT 3", "new"), ("right 3", "right 4"), ("new", "left 9")]
    task = STS(tuple(pairs), tuple(float(place % 5) for place in range(33)))
    assert "28 groups without a common text" in task.sharing[0]
    for seed in range(4):
        split, (validation, held_out, _) = parts_of(task, seed)
        assert not validation & held_out
        assert len(split.validation) + len(split.held_out) == 33
        assert not len(split.between)


def test_pairs_that_all_have_one_text_cannot_be_split():
    task = STS(tuple(("anchor", f"text {place}") for place in range(40)), tuple(float(place) for place in range(40)))
    with pytest.raises(InputError, match="40 pairs cannot be split so that no text is in both parts"):
        task.split(0)


def test_a_pair_of_a_text_and_its_copy_counts_as_the_text():
    own = np.array([[0, 1], [2, 2], [1, 0]])
    outcome = Correlation(np.arange(3.0), np.arange(3.0), ranked=False, texts=own)
    assert bootstrap._drawn_from(outcome, np.arange(3)).tolist() == [[0, 1], [2, -1], [1, 0]]
    assert independent(outcome, np.array([0, 2])) == 2


def test_questions_that_share_an_answer_stay_together():
    """Two questions have one answer, a third is asked in the words of that answer, a fourth by a copy of it."""
    documents = [f"answer {place}" for place in range(40)] + ["Answer  3"]
    queries = [f"question {place}" for place in range(40)] + ["another", "ANSWER 3", "copy"]
    relevant = [{place: 1} for place in range(40)] + [{3: 1}, {7: 2}, {40: 1}]
    task = Retrieval(tuple(documents), tuple(queries), tuple(relevant))
    assert "43 questions make 39 groups" in task.sharing[0]
    for seed in range(6):
        split, (validation, held_out, _) = parts_of(task, seed)
        assert not validation & held_out
        sides = [{40, 41, 42, 3, 7} <= {*part.tolist()} for part in (split.validation, split.held_out)]
        assert sorted(sides) == [False, True]


def test_questions_that_share_nearly_all_answers_are_still_split():
    queries = [f"question {place // 2}" for place in range(60)]
    task = Retrieval(texts(12), tuple(queries), tuple({place % 12: 1, (place + 5) % 12: 1} for place in range(60)))
    assert any("both parts know the same ones" in note for note in task.sharing)
    split = task.split(0)
    asked = [{queries[place] for place in part} for part in (split.validation, split.held_out)]
    assert not asked[0] & asked[1]
    assert len(asked[0]) == len(asked[1]) == 15


def test_documents_of_one_text_are_one_document():
    vectors = np.eye(4, dtype="f4")[[0, 0, 1, 0, 2, 3]]
    queries = np.array([[1, 0, 0, 0], [0.9, 1, 0, 0], [0, 0, 1, 0.9]], "f4")
    documents = ("same", "same", "second", "same", "third", "fourth")
    task = Retrieval(documents, ("a", "b", "c"), ({3: 2, 1: 1}, {2: 1}, {5: 1}), "nDCG@3", itself=(-1, 1, 4))
    assert task.sharing[0].startswith("2 of the 6 documents repeat another")
    # The second query is the document "same", and the third is the document "third"; neither is searched for itself.
    assert task.outcome(Vectors(vectors, queries), None, Dot()).values.tolist() == [[1, 1, 1]]
    relevant = dataclasses.replace(task, relevant=({3: 2}, {2: 1, 0: 1}, {5: 1}), measure="MRR@3")
    assert relevant.outcome(Vectors(vectors, queries), None, Dot()).values[0, 1] == 1
    with pytest.raises(InputError, match="a corpus of one document"):
        Retrieval(("same", "same"), ("a",), ({0: 1},))
    with pytest.raises(InputError, match="query 1 has no text"):
        Retrieval(documents, ("a", " \n"), ({0: 1}, {1: 1}))


class Once(FakeEmbedder):
    """An encoder that gives a text another vector each time, different in the last bits."""

    def _encode(self, side, texts, temperature):
        assert len(set(texts)) == len(texts)
        rows = super()._encode(side, texts, temperature)
        return rows + 1e-6 * np.random.default_rng(len(self.calls)).standard_normal(rows.shape).astype("f4")


def test_a_sweep_embeds_a_text_once_and_says_what_copies_there_are():
    written = tuple(text for text in texts(48) for _ in range(5))
    task = Classification(written, tuple(str(int(text.split()[0]) % 2) for text in written), experiments=2)
    result = sweep(Once(), task, grid([0.8]))
    assert (result.held_out_items, result.held_out_independent) == (80, 16)
    assert content(result)["held_out_independent"] == 16
    printed = "\n".join(lines(result))
    assert "192 of the 240 texts repeat another" in printed
    assert "only 16 independent held-out texts: do not rely on the interval" in printed
    assert json.loads(json.dumps(content(result), allow_nan=False))["notes"]


def test_by_length_a_text_counts_once():
    written = tuple(f"{place} {place}" for place in range(48) for _ in range(5))
    written += tuple(f"{place} {place}" + " x" * 80 for place in range(10) for _ in range(20))
    task = Clustering(written, tuple(str(int(text.split()[0]) % 2) for text in written), experiments=2)
    short, long = sweep(FakeEmbedder(), task, grid([0.8])).by_length
    assert short.gain is not None
    assert long.items == 100
    assert long.gain is None


def test_a_score_that_is_no_number_chooses_nothing():
    with pytest.raises(InputError, match=r"τ = 0\.9 has no score on the validation part"):
        choose(grid([0.9, 0.8]), [0.5, float("nan"), 0.6])


def test_the_best_of_many_is_beyond_noise_no_more_often_than_one(monkeypatch):
    """The best of six is chosen on texts outside the held-out part, and is judged as if it had been the only one."""
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 400)
    rng = np.random.default_rng(1)
    trials, gains = 40, 0
    for trial in range(trials):
        which, written = copied(40, 5, seed=trial)
        task = task_of("retrieval", which, written, rng)
        split, outcomes = outcomes_of(task, rng, 7)
        validation = [score(outcome, split.validation) for outcome in outcomes]
        best = outcomes[int(np.argmax(validation))]
        gains += paired_difference(best, outcomes[0], split.held_out, seed=trial).verdict > 0
    assert gains <= 0.05 * trials
