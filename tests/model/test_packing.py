"""Packed rows against padded texts, which give the same with every attention kernel."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.parameters import random_params
from tests.support.tiers import fast_where
from tsjax.engine.batching import Batch, Shape, fill, pack
from tsjax.model.config import EncoderConfig, ModelConfig, PoolingConfig
from tsjax.model.forward import Inputs, apply, apply_packed
from tsjax.model.packing import Packing

BERT = EncoderConfig(
    vocab_size=50, hidden_size=24, num_layers=2, num_heads=3, intermediate_size=32, max_positions=64, type_vocab_size=2
)
PLAIN = dataclasses.replace(BERT, absolute_positions=False, type_vocab_size=0, max_positions=None)
ENCODERS = {
    "BERT": BERT,
    "RoBERTa": dataclasses.replace(BERT, position_padding_id=1, max_positions=66),
    "strided": dataclasses.replace(BERT, position_stride=2, position_stride_up_to=20),
    "rotary, grouped, windows": dataclasses.replace(
        PLAIN,
        rope_theta=100.0,
        local_rope_theta=10.0,
        local_layers=(1,),
        local_window=3,
        num_key_value_heads=1,
        norm_placement="pre",
        final_norm=True,
    ),
    "relative bias": dataclasses.replace(PLAIN, relative_buckets=8, relative_max_distance=16),
    "ALiBi, causal": dataclasses.replace(PLAIN, alibi=True, causal=True),
}
FAST = {"BERT", "rotary, grouped, windows"}
MODES = ("mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean")
TOKENS, SLOTS = 96, 8


@functools.cache
def model(name):
    config = ModelConfig(encoder=ENCODERS[name], pooling=PoolingConfig(modes=MODES))
    return config, random_params(config, seed=3)


def texts_of(lengths, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 50, length).astype("i4") for length in lengths]


@functools.cache
def padded(name):
    config, params = model(name)
    run = jax.jit(lambda params, *a: apply(config, params, *a).embeddings)
    return functools.partial(run, params)


@functools.cache
def packed(name, kernel):
    config, params = model(name)
    run = jax.jit(lambda params, *a: apply_packed(config, params, *a, kernel).embeddings)
    return functools.partial(run, params)


def one_by_one(name, texts, temperature, prompt):
    """Compute each text in a separate row; temperature (2, texts, 3)."""
    ids, taus = np.zeros((SLOTS, 64), "i4"), np.ones((2, SLOTS, 3), "f4")
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    taus[:, : len(texts)] = temperature
    lengths = np.array([*map(len, texts), *[0] * (SLOTS - len(texts))], "i4")
    return np.asarray(padded(name)(ids, lengths, taus, np.full(SLOTS, prompt, "i4")))[: len(texts)]


@pytest.mark.parametrize("kernel", fast_where("windows".__eq__, ["xla", "windows"]))
@pytest.mark.parametrize("name", fast_where(FAST.__contains__, ENCODERS))
@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=SLOTS).filter(lambda sizes: sum(sizes) <= TOKENS),
    seed=st.integers(0, 99),
    prompt=st.integers(0, 1),
    rows=st.integers(1, 2),
)
def test_packed_rows_give_what_padded_texts_give(name, kernel, lengths, seed, prompt, rows):
    lengths = np.sort(lengths)[::-1].copy()
    texts = texts_of(lengths, seed)
    temperature = np.random.default_rng(seed).uniform(0.5, 1.5, (2, len(texts), 3)).astype("f4")
    expected = one_by_one(name, texts, temperature, prompt)
    batch = Batch(tuple(np.arange(len(texts))[row::rows] for row in range(rows)), Shape(2, TOKENS))
    by_slot = np.ones((2, 2, SLOTS, 3), "f4")
    for row, own in enumerate(batch.rows):
        by_slot[:, row, : len(own)] = temperature[:, own]
    packing = Packing(*pack(lengths, batch, SLOTS))
    inputs = Inputs(fill(texts, batch, 0), packing, np.full((2, SLOTS), prompt, "i4"))
    ours = np.asarray(packed(name, kernel)(inputs, by_slot))
    for row, own in enumerate(batch.rows):
        some = [i for i, text in enumerate(own) if lengths[text] > prompt]  # the others have nothing to pool
        np.testing.assert_allclose(ours[row, some], expected[own[some]], rtol=0, atol=3e-6)


@pytest.mark.slow
def test_long_texts_go_block_by_block_and_give_the_same(monkeypatch):
    """With a small cache the queries are computed in blocks, the last of which overlaps the one before it."""
    monkeypatch.setattr("tsjax.model.kernels.cpu._SCORES", 300)
    lengths = np.array([40, 33, 17])
    texts = texts_of(lengths, 5)
    for name in ENCODERS:
        config, params = model(name)
        batch = Batch((np.arange(3),), Shape(1, TOKENS))
        inputs = Inputs(fill(texts, batch, 0), Packing(*pack(lengths, batch, SLOTS)), np.zeros((1, SLOTS), "i4"))
        run = jax.jit(lambda i, t, c=config, p=params: apply_packed(c, p, i, t, "windows").embeddings)
        ours = run(jax.tree.map(jnp.asarray, inputs), np.full((2, 1, 1, 3), 0.7, "f4"))[0, :3]
        expected = one_by_one(name, texts, np.full((2, 1, 3), 0.7, "f4"), 0)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6)


def test_a_text_does_not_see_its_neighbours():
    config, params = model("BERT")
    lengths = np.array([30, 20, 20])
    batch = Batch((np.arange(3),), Shape(1, TOKENS))
    packing = Packing(*map(jnp.asarray, pack(lengths, batch, SLOTS)))
    for kernel in ("xla", "windows"):
        run = jax.jit(
            lambda ids, kernel=kernel: apply_packed(
                config, params, Inputs(ids, packing, jnp.zeros((1, SLOTS), jnp.int32)), jnp.ones((2, 1, 1, 3)), kernel
            ).embeddings[0, :3]
        )
        ids = np.random.default_rng(0).integers(0, 50, (1, TOKENS)).astype("i4")
        before = np.asarray(run(ids))
        ids[0, 30:50] = (ids[0, 30:50] + 1) % 50
        ids[0, 70:] = (ids[0, 70:] + 1) % 50
        after = np.asarray(run(ids))
        np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
        assert np.abs(before[1] - after[1]).max() > 1e-3
