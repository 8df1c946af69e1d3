import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax.errors import InputError
from tsjax.lab.analysis import (
    attention_entropy,
    distance_to_centroid,
    distance_to_centroid_change,
    effective_rank,
    filter_rate,
    high_frequency_share,
    mean_cosine_between,
    mean_pairwise_cosine,
    pairwise_cosine,
    pairwise_cosine_change,
)


def vectors(count, width=5, seed=0, shift=0.5):
    return np.random.default_rng(seed).standard_normal((count, width)) + shift


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def attention(size, seed=0, sharp=2.0):
    logits = sharp * np.random.default_rng(seed).standard_normal((size, size))
    weights = np.exp(logits)
    return weights / weights.sum(1, keepdims=True)


sizes = st.tuples(st.integers(3, 12), st.integers(1, 9), st.integers(0, 999))


@given(sizes)
def test_mean_pairwise_cosine_is_the_mean_over_all_pairs(size):
    x = vectors(*size)
    expected = np.mean([cosine(a, b) for a, b in itertools.combinations(x, 2)])
    assert mean_pairwise_cosine(x) == pytest.approx(expected, abs=1e-12)


@given(sizes)
def test_the_jackknife_leaves_out_one_text_at_a_time(size):
    x = vectors(*size)
    value, error = pairwise_cosine(x)
    without = [mean_pairwise_cosine(np.delete(x, i, axis=0)) for i in range(len(x))]
    n = len(x)
    assert value == mean_pairwise_cosine(x)
    assert error == pytest.approx(math.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2)), abs=1e-9)


def test_the_jackknife_error_is_that_of_repeated_samples():
    samples = [pairwise_cosine(vectors(40, seed=seed)) for seed in range(200)]
    assert np.mean([error for _, error in samples]) == pytest.approx(np.std([value for value, _ in samples]), rel=0.15)


def moved(seed):
    """Return texts, and the same texts moved a little along a common direction."""
    x = vectors(40, seed=seed)
    return x, x + np.random.default_rng(seed + 1000).normal(0.2, 0.1, x.shape)


@pytest.mark.parametrize("change", [pairwise_cosine_change, distance_to_centroid_change])
def test_the_error_of_a_change_is_that_of_repeated_samples(change):
    of_one = pairwise_cosine if change is pairwise_cosine_change else distance_to_centroid
    samples = [change(*moved(seed)) for seed in range(200)]
    assert np.mean([error for _, error in samples]) == pytest.approx(np.std([value for value, _ in samples]), rel=0.25)
    first, last = moved(7)
    value, error = change(first, last)
    assert value == pytest.approx(of_one(last).value - of_one(first).value, abs=1e-12)
    assert error < 0.5 * math.hypot(of_one(first).error, of_one(last).error)
    with pytest.raises(InputError, match="as many rows on both sides, not 40 and 39"):
        change(first, last[:39])


@given(sizes, st.integers(3, 8))
def test_mean_cosine_between_is_the_mean_over_all_pairs(size, other):
    x, y = vectors(*size), vectors(other, size[1], seed=size[2] + 1)
    expected = np.mean([cosine(a, b) for a in x for b in y])
    assert mean_cosine_between(x, y) == pytest.approx(expected, abs=1e-12)


def test_paired_rows_are_not_compared():
    x, y = vectors(6), vectors(6, seed=1)
    expected = np.mean([cosine(x[i], y[j]) for i in range(6) for j in range(6) if i != j])
    assert mean_cosine_between(x, y, paired=True) == pytest.approx(expected, abs=1e-12)
    assert mean_cosine_between(x, x, paired=True) == pytest.approx(mean_pairwise_cosine(x), abs=1e-12)
    with pytest.raises(InputError, match="as many rows on both sides, not 6 and 5"):
        mean_cosine_between(x, y[:5], paired=True)


def test_distance_to_the_centroid():
    x = vectors(7)
    units = np.array([row / np.linalg.norm(row) for row in x])
    distances = [np.linalg.norm(row - units.mean(0)) for row in units]
    value, error = distance_to_centroid(x)
    assert value == pytest.approx(np.mean(distances))
    assert error == pytest.approx(np.std(distances, ddof=1) / math.sqrt(7))
    elsewhere = np.full(5, 0.3)
    expected = np.mean([np.linalg.norm(row - elsewhere) for row in units])
    assert distance_to_centroid(x, elsewhere).value == pytest.approx(expected)


def test_effective_rank_of_what_is_known():
    assert effective_rank(np.eye(6)[:4]) == pytest.approx(4)
    assert effective_rank(np.outer([1, 2, 3], [1.0, 0, 2])) == pytest.approx(1)
    # Two directions, with three rows on one and one row on the other: singular values √3 and 1.
    p = np.array([math.sqrt(3), 1]) / (1 + math.sqrt(3))
    expected = math.exp(-(p * np.log(p)).sum())
    assert effective_rank([[1, 0], [2, 0], [0.5, 0], [0, 1]]) == pytest.approx(expected)


@settings(max_examples=50)
@given(sizes)
def test_neither_order_nor_size_nor_rotation_matters(size):
    x = vectors(*size)
    rng = np.random.default_rng(size[2])
    turned = np.linalg.qr(rng.standard_normal((size[1], size[1])))[0]
    other = (rng.uniform(0.1, 9, (len(x), 1)) * x)[rng.permutation(len(x))] @ turned
    for measure in (mean_pairwise_cosine, lambda v: distance_to_centroid(v).value, effective_rank):
        assert measure(other) == pytest.approx(measure(x), abs=1e-9)
    assert 1 - 1e-9 <= effective_rank(x) <= min(x.shape) + 1e-9


def test_any_float_goes_without_loss_or_overflow():
    x = vectors(5)
    assert mean_pairwise_cosine(x.astype("f2") * np.float16(200)) == pytest.approx(mean_pairwise_cosine(x), abs=1e-3)
    assert mean_pairwise_cosine(x * 1e300) == pytest.approx(mean_pairwise_cosine(x))
    assert mean_pairwise_cosine(x * 1e-300) == pytest.approx(mean_pairwise_cosine(x))


def test_high_frequency_share():
    x = vectors(6)
    mean = np.array([x[:, i].sum() / 6 for i in range(5)])
    high = math.sqrt(sum((row[i] - mean[i]) ** 2 for row in x for i in range(5)))
    low = math.sqrt(6) * np.linalg.norm(mean)
    assert high_frequency_share(x) == pytest.approx(high / math.hypot(high, low))
    assert high_frequency_share(np.ones((4, 3))) == 0
    assert high_frequency_share([[1.0, 2], [-1, -2]]) == pytest.approx(1)
    with pytest.raises(InputError, match="undefined"):
        high_frequency_share(np.zeros((3, 2)))


def test_filter_rate_is_the_most_that_attention_lets_through():
    a = attention(9)
    centred = (np.eye(9) - np.ones((9, 9)) / 9) @ a
    rate = filter_rate(a)
    assert rate == pytest.approx(math.sqrt(np.linalg.eigvalsh(centred.T @ centred)[-1]))
    x = vectors(9, 400, shift=3)
    high = [np.linalg.norm(y - y.mean(0)) for y in (x, a @ x)]
    assert high[1] <= rate * high[0]
    assert filter_rate(np.full((5, 5), 0.2)) == pytest.approx(0, abs=1e-12)
    assert filter_rate(np.eye(5)) == pytest.approx(1)


def test_attention_entropy():
    a = attention(7)
    expected = np.mean([-sum(p * math.log(p) for p in row) for row in a]) / math.log(7)
    assert attention_entropy(a) == pytest.approx(expected)
    assert attention_entropy(np.full((5, 5), 0.2)) == pytest.approx(1)
    assert attention_entropy(np.eye(5)) == 0
    assert attention_entropy(attention(7, sharp=4)) < attention_entropy(attention(7, sharp=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_pairwise_cosine([[1.0, 2]]), "at least 2 vectors are needed, not shape \\(1, 2\\)"),
        (lambda: mean_pairwise_cosine([]), "at least 2 vectors are needed"),
        (lambda: pairwise_cosine(vectors(2)), "at least 3 vectors are needed"),
        (lambda: mean_pairwise_cosine([[1, 2], [0, 0]]), "vector 1 is zero and has no direction"),
        (lambda: effective_rank([[1, math.nan]]), "not finite"),
        (lambda: distance_to_centroid([[1, math.inf], [1, 2]]), "not finite"),
        (lambda: filter_rate(np.ones((2, 3)) / 3), "square matrix"),
        (lambda: filter_rate(np.ones((2, 2))), "add up to 1"),
        (lambda: attention_entropy([[1.5, -0.5], [0.5, 0.5]]), "no weight below 0"),
    ],
)
def test_what_has_no_value_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
