"""Splash attention, run by Pallas' interpreter, against attention written out in NumPy."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax.model.kernels.splash import _block, splash_attention, supports

interpreted = jax.jit(functools.partial(splash_attention, interpret=True), static_argnames=("causal", "window"))


def tensors(rows, length, heads=2, head_size=32, seed=0):
    """Return query, key and value."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rows, length, heads, head_size)).astype(np.float32) for _ in range(3)]


def segments_of(length, *rows):
    """Return the segment ids of the given lengths, and −1 for the padding after them."""
    numbers = np.full((len(rows), length), -1, np.int32)
    for row, lengths in zip(numbers, rows, strict=True):
        text = np.repeat(np.arange(len(lengths)), lengths)
        row[: len(text)] = text
    return numbers


def expected(query, key, value, segments, *, causal=False, window=None):
    logits = np.einsum("rtnh,rsnh->rnts", query.astype(np.float64), key.astype(np.float64))
    sees = segments[:, :, None] == segments[:, None, :]
    offsets = np.subtract.outer(np.arange(query.shape[1]), np.arange(query.shape[1]))  # query minus key
    if causal:
        sees &= offsets >= 0
    if window is not None:
        sees &= abs(offsets) <= window
    logits = np.where(sees[:, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("rnts,rsnh->rtnh", weights, value.astype(np.float64))


SEEN = [{}, {"causal": True}, {"window": 5}, {"causal": True, "window": 40}, {"window": 0}]


@pytest.mark.slow
@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_packed_rows_of_awkward_lengths(seen):
    query, key, value = tensors(2, 256, seed=1)
    segments = segments_of(256, [1, 126, 2, 100, 3], [129, 127])
    mixed = interpreted(query / np.sqrt(32), key, value, segments, **seen)
    np.testing.assert_allclose(mixed, expected(query / np.sqrt(32), key, value, segments, **seen), atol=3e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seen", [{"window": 70}, {"causal": True}], ids=str)
def test_many_blocks(seen):
    query, key, value = tensors(1, 640, heads=1, head_size=8, seed=2)  # 5 blocks of 128 queries
    segments = segments_of(640, [200, 1, 300, 100])
    mixed = interpreted(query / 3, key, value, segments, **seen)
    np.testing.assert_allclose(mixed, expected(query / 3, key, value, segments, **seen), atol=3e-6)


@pytest.mark.slow
def test_blocks_that_a_token_sees_nothing_of():
    query, key, value = tensors(1, 4096, heads=1, head_size=8, seed=3)  # 2 blocks of 2048 keys
    segments = segments_of(4096, [2000, 1000, 900])
    mixed = interpreted(query / 3, key, value, segments)
    np.testing.assert_allclose(mixed, expected(query / 3, key, value, segments), atol=3e-6)


def test_it_depends_on_the_segments():
    query, key, value = tensors(1, 128)
    apart = interpreted(query, key, value, segments_of(128, [50, 70]))
    together = interpreted(query, key, value, segments_of(128, [120]))
    assert np.abs(apart[0, :120] - together[0, :120]).max(axis=(1, 2)).min() > 1e-3  # each token of both texts


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.data())
def test_nothing_leaks_from_one_segment_to_another(lengths, data):
    query, key, value = tensors(1, 256, heads=1, head_size=8, seed=4)
    cuts = np.minimum(np.cumsum(lengths), 256)
    segments = segments_of(256, np.diff(cuts, prepend=0))
    changed = segments == data.draw(st.sampled_from(sorted(set(segments[0].tolist()))), label="segment")
    before = interpreted(query, key, value, segments)
    other = [np.where(changed[..., None, None], 100 * x + 7, x) for x in (query, key, value)]
    after = interpreted(*other, segments)
    np.testing.assert_array_equal(after[~changed], before[~changed])


def test_a_text_does_not_care_where_in_a_row_it_stands():
    query, key, value = tensors(1, 128)
    query = query * np.float32(32**-0.5)  # scaled as in models: logits of 25 would magnify their rounding error
    place = np.roll(np.arange(128), 51)
    there = interpreted(query, key, value, segments_of(128, [33, 60]))
    here = interpreted(*(x[:, place] for x in (query, key, value)), segments_of(128, [33, 60])[:, place])
    np.testing.assert_allclose(here, there[:, place], atol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_a_temperature_is_a_factor_on_the_query(tau):
    query, key, value = tensors(2, 128)
    segments = segments_of(128, [128], [100])
    mixed = interpreted(query * np.float32(32**-0.5 / tau), key, value, segments)
    logits = np.einsum("rtnh,rsnh->rnts", query, key) * 32**-0.5 / tau
    logits = np.where((segments[:, :, None] == segments[:, None, :])[:, None], logits, -np.inf)
    np.testing.assert_allclose(mixed, jnp.einsum("rnts,rsnh->rtnh", jax.nn.softmax(logits), value), atol=3e-6)


@pytest.mark.slow
def test_gradients():
    query, key, value = tensors(1, 256, heads=1, head_size=16)
    segments, weights = segments_of(256, [100, 120]), tensors(1, 256, heads=1, head_size=16, seed=5)[0]

    def ours(query, key, value):
        return (interpreted(query, key, value, segments) * weights).sum()

    def written_out(query, key, value):
        logits = jnp.einsum("rtnh,rsnh->rnts", query, key)
        logits = jnp.where((segments[:, :, None] == segments[:, None, :])[:, None], logits, -jnp.inf)
        return (jnp.einsum("rnts,rsnh->rtnh", jax.nn.softmax(logits), value) * weights).sum()

    for mine, theirs in zip(*(jax.grad(f, (0, 1, 2))(query, key, value) for f in (ours, written_out)), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_half_precision(dtype, tolerance):
    query, key, value = (jnp.asarray(x, dtype) for x in tensors(1, 128))
    segments = segments_of(128, [60, 60])
    mixed = interpreted(query, key, value, segments)
    assert mixed.dtype == dtype
    same = expected(*(np.asarray(x, np.float32) for x in (query, key, value)), segments)
    np.testing.assert_allclose(np.asarray(mixed, np.float32), same, atol=tolerance)


def test_what_it_supports():
    assert supports(512, 12, 64, biased=False)
    assert supports(384, 3, 256, biased=False)
    assert not supports(512, 12, 64, biased=True)
    assert not supports(500, 12, 64, biased=False)
    assert not supports(64, 12, 64, biased=False)
    assert not supports(0, 12, 64, biased=False)
    assert not supports(512, 12, 512, biased=False)


@pytest.mark.parametrize("most", [512, 2048])
def test_blocks_divide_the_length(most):
    for length in range(128, 8193, 128):
        block = _block(length, most)
        assert length % block == 0, length
        assert block % 128 == 0, length
        assert block <= most, length
    assert _block(8192, most) == most


@pytest.mark.parametrize("causal", [False, True])
def test_it_lowers_for_a_tpu(causal):
    specs = [jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)] * 3 + [jax.ShapeDtypeStruct((2, 256), jnp.int32)]
    traced = jax.jit(functools.partial(splash_attention, causal=causal)).trace(*specs)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_a_program_for_a_cpu_does_not_import_pallas():
    program = "import sys, tsjax.model.kernels.splash; sys.exit('jax.experimental.pallas' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
