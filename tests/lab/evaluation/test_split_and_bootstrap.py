"""The split, which is seeded and disjoint, and the interval, which is paired and has the right coverage."""

import itertools

import numpy as np
import pytest

from tsjax.errors import InputError
from tsjax.lab.evaluation.bootstrap import paired_difference
from tsjax.lab.evaluation.outcomes import Correlation, Labels, Means
from tsjax.lab.evaluation.split import by_label, split_in_half


def parts(split):
    return [split.validation.tolist(), split.held_out.tolist(), split.training.tolist()]


@pytest.mark.parametrize("items", [4, 5, 101])
def test_halves_are_seeded_and_disjoint(items):
    split = split_in_half(items, seed=3, min_items=2, item_name="pairs")
    assert parts(split) == parts(split_in_half(items, seed=3, min_items=2, item_name="pairs"))
    assert sorted([*split.validation, *split.held_out]) == list(range(items))
    assert len(split.held_out) - len(split.validation) == items % 2
    assert split.part("all").tolist() == list(range(items))
    if items > 5:
        assert parts(split) != parts(split_in_half(items, seed=4, min_items=2, item_name="pairs"))


def test_every_label_is_in_every_part():
    labels = ["a"] * 3 + ["b"] * 40 + ["c"] * 7
    for with_training in (True, False):
        split = by_label(labels, seed=1, with_training=with_training)
        assert parts(split) == parts(by_label(labels, seed=1, with_training=with_training))
        assert parts(split) != parts(by_label(labels, seed=2, with_training=with_training))
        used = [part for part in parts(split) if part]
        assert len(used) == 2 + with_training
        assert sorted(itertools.chain(*used)) == list(range(50))
        for part in used:
            assert {labels[place] for place in part} == {"a", "b", "c"}
        sizes = [sum(labels[place] == "b" for place in part) for part in used]
        assert max(sizes) - min(sizes) <= 1


def test_what_cannot_be_split_is_said():
    with pytest.raises(InputError, match="3 queries cannot be split"):
        split_in_half(3, seed=0, min_items=2, item_name="queries")
    with pytest.raises(InputError, match="label 'b' has 2 texts; each needs at least 3"):
        by_label(["a"] * 5 + ["b"] * 2, seed=0, with_training=True)
    with pytest.raises(InputError, match="label 'b' has 1 text;"):
        by_label(["a"] * 5 + ["b"], seed=0, with_training=False)
    for seed in (-1, 1.5, True):
        with pytest.raises(InputError, match="seed must be a whole number"):
            split_in_half(30, seed=seed, min_items=2, item_name="queries")
    with pytest.raises(InputError, match="there is no part 'test'"):
        split_in_half(30, seed=0, min_items=2, item_name="queries").part("test")


def test_the_interval_covers_a_known_difference_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for trial in range(100):
        hard = rng.standard_normal(60)  # the difficulty of each question, the same for both
        before = Means(hard[None])
        after = Means((hard + 0.3 + 0.5 * rng.standard_normal(60))[None])
        interval = paired_difference(after, before, np.arange(60), seed=trial)
        covered += interval.low <= 0.3 <= interval.high
        widths.append(interval.high - interval.low)
    assert 88 <= covered <= 99
    # Paired, the width is 2 · 1.96 · 0.5 / √60 = 0.25; unpaired it would be 0.75.
    assert np.mean(widths) == pytest.approx(0.25, abs=0.03)


def test_a_difference_of_nothing_is_nothing():
    same = Means(np.random.default_rng(0).random((1, 20)))
    copy = Means(same.values.copy())
    interval = paired_difference(copy, same, np.arange(20), seed=0)
    assert (interval.difference, interval.low, interval.high, interval.verdict) == (0, 0, 0, 0)
    shifted = paired_difference(Means(same.values + 0.25), same, np.arange(20), seed=0)
    assert shifted.low == pytest.approx(0.25)
    assert shifted.verdict == 1
    assert paired_difference(same, Means(same.values + 0.25), np.arange(20), seed=0).verdict == -1


def test_only_the_items_that_count_count():
    rng = np.random.default_rng(0)
    before, after = rng.random((1, 40)), rng.random((1, 40))
    items = np.arange(10, 30)
    one = paired_difference(Means(after), Means(before), items, seed=1)
    after[:, :10] = before[:, 30:] = 1e9
    assert paired_difference(Means(after), Means(before), items, seed=1) == one
    assert paired_difference(Means(after), Means(before), items, seed=2) != one


def test_runs_widen_the_interval():
    """The two runs differ much: drawing only texts would not show it."""
    values = np.repeat([[0.2], [0.8], [0.4], [0.6]], 50, axis=1) + 0.01 * np.random.default_rng(0).random((4, 50))
    interval = paired_difference(Means(values), Means(np.zeros((4, 50))), np.arange(50), seed=0)
    assert interval.difference == pytest.approx(0.5, abs=0.01)
    assert interval.low < 0.35
    assert interval.high > 0.65


@pytest.mark.slow
def test_pairs_that_share_texts_are_drawn_by_texts():
    """A text's peculiarity affects all of its pairs; intervals of pairs drawn as if independent are too narrow."""
    texts = np.array(list(itertools.combinations(range(24), 2)))
    covered, widths = {True: 0, False: 0}, {True: [], False: []}
    for trial in range(40):
        rng = np.random.default_rng(trial)
        odd, odder = rng.standard_normal((2, 24))
        wanted = rng.standard_normal(len(texts))
        # Both are equally good.
        good, other = (wanted + one[texts].sum(axis=1) for one in (odd, odder))
        for shared in (True, False):
            outcomes = [
                Correlation(one, wanted, ranked=False, texts=texts if shared else None) for one in (good, other)
            ]
            interval = paired_difference(*outcomes, np.arange(len(texts)), seed=trial)
            covered[shared] += interval.low <= 0 <= interval.high
            widths[shared].append(interval.high - interval.low)
    assert np.mean(widths[True]) > 1.5 * np.mean(widths[False])
    assert covered[True] >= 36
    assert covered[False] < 32


@pytest.mark.slow
def test_questions_of_one_text_are_drawn_together():
    """Asked four times each, a question is no more evidence than asked once."""
    texts = np.repeat(np.arange(40), 4)[:, None]
    covered, widths = {True: 0, False: 0}, {True: [], False: []}
    for trial in range(60):
        gains = np.random.default_rng(trial).standard_normal(40)
        for together in (True, False):
            after, before = (
                Means(values[texts[:, 0]][None], texts if together else None) for values in (gains, np.zeros(40))
            )
            interval = paired_difference(after, before, np.arange(160), seed=trial)
            covered[together] += interval.low <= 0 <= interval.high
            widths[together].append(interval.high - interval.low)
    assert np.mean(widths[True]) == pytest.approx(2 * np.mean(widths[False]), rel=0.1)
    assert covered[True] >= 52
    assert covered[False] < 48
    few = np.arange(36)  # nine texts
    assert not paired_difference(
        Means(gains[texts[:, 0]][None], texts), Means(np.zeros((1, 160)), texts), few, seed=0
    ).telling


def test_the_other_outcomes_have_intervals_too():
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal(80)
    good, bad = (Correlation(wanted + noise * rng.standard_normal(80), wanted, ranked=True) for noise in (0.3, 3))
    assert paired_difference(good, bad, np.arange(80), seed=0).verdict == 1
    labels = np.arange(80) % 4
    right = np.tile(labels, (2, 1))
    wrong = rng.permuted(right, axis=1)
    agreement = [Labels(labels, found, lambda a, b: float(np.mean(a == b))) for found in (right, wrong)]
    interval = paired_difference(*agreement, np.arange(80), seed=0)
    assert 0.6 < interval.low < interval.difference < interval.high <= 1
    # Draws of only one label have no score; here that is every draw.
    some = np.flatnonzero(labels == 1)
    assert not np.isfinite(paired_difference(*agreement, some, seed=0).low)
