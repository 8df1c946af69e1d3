"""The probe against the model's own attention matrices, written out in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.parameters import random_params
from tsjax.lab.analysis import attention_entropy, filter_rate, high_frequency_share, probe_text
from tsjax.lab.analysis.probe import compiled_probe, largest_singular_value
from tsjax.model import encoder as network
from tsjax.model.config import EncoderConfig, ModelConfig
from tsjax.model.forward import Inputs, abstract_params, apply, compiled_apply
from tsjax.model.packing import one_a_row
from tsjax.model.params import cast_params

BERT = EncoderConfig(
    vocab_size=50, hidden_size=24, num_layers=2, num_heads=3, intermediate_size=32, max_positions=64, type_vocab_size=2
)
PLAIN = dataclasses.replace(BERT, absolute_positions=False, type_vocab_size=0, max_positions=None)
# Every choice that families differ in and that affects attention.
ENCODERS = {
    "post-norm, absolute": BERT,
    "shared layers, projected": dataclasses.replace(BERT, shared_layers=True, embedding_size=10),
    "pre-norm, rotary, grouped, windows": dataclasses.replace(
        PLAIN,
        rope_theta=100.0,
        local_rope_theta=10.0,
        local_layers=(1,),
        local_window=3,
        num_heads=4,
        num_key_value_heads=2,
        norm_placement="pre",
        first_norm=False,
        final_norm=True,
    ),
    "relative bias, no scale": dataclasses.replace(
        PLAIN, relative_buckets=8, relative_max_distance=16, attention_scale=1.0, norm="rms_norm", norm_placement="pre"
    ),
    "ALiBi": dataclasses.replace(PLAIN, alibi=True),
    "sandwich, causal, normalised queries and keys": dataclasses.replace(
        PLAIN,
        rope_theta=100.0,
        causal=True,
        query_key_norm=True,
        norm="rms_norm",
        norm_offset=1.0,
        norm_placement="sandwich",
        head_size=10,
        num_key_value_heads=1,
    ),
}
LENGTH = 21


@functools.cache
def model(name):
    config = ModelConfig(encoder=ENCODERS[name])
    # The attention of a fresh model is nearly even; this one is sharper.
    params = jax.tree.map(lambda leaf: 2.5 * leaf if leaf.ndim > 2 else leaf, random_params(config, seed=3))
    return config, params


def token_ids(length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(2, 50, length).astype(np.int32)


def temperatures(config, seed=0):
    shape = (config.encoder.num_layers, config.encoder.num_heads)
    return np.random.default_rng(seed).uniform(0.4, 1.5, shape).astype(np.float32)


def probed(name, tau, ids=None, padded=32):
    config, params = model(name)
    return probe_text(params, token_ids() if ids is None else ids, padded, tau, 0, config)


def looked_at(name, tau, monkeypatch):
    """Return the attention matrices and the inputs of the layers, from an unpadded run of the model, step by step."""
    config, params = model(name)
    matrices, inputs = [], []

    def written_out(query, key, value, view, *, temperature, scale, causal, window, longest, kernel):
        del longest, kernel
        q, k, v, t = (np.asarray(x, np.float64)[0] for x in (query, key, value, temperature))
        n, heads, _ = q.shape
        weights = np.zeros((heads, n, n))
        for h in range(heads):
            for i in range(n):
                logits = np.full(n, -np.inf)
                for j in range(n):
                    if (causal and j > i) or (view.local is not None and view.local and abs(i - j) > window):
                        continue
                    bias = 0 if view.by_offset is None else float(view.by_offset[h, j - i + n - 1])
                    logits[j] = (q[i, h] @ k[j, h] * scale + bias) / t[0, h]
                weights[h, i] = np.exp(logits - logits.max())
            weights[h] /= weights[h].sum(1, keepdims=True)
        matrices.append(weights)
        return jnp.asarray(np.einsum("nts,snh->tnh", weights, v)[None], jnp.float32)

    original = network.Layer.__call__

    def recorded(self, x, *arguments):
        inputs.append(np.asarray(x[0]))
        return original(self, x, *arguments)

    monkeypatch.setattr(network, "attention", written_out)
    monkeypatch.setattr(network.Layer, "__call__", recorded)
    with jax.disable_jit():
        out = apply(config, params, jnp.asarray(token_ids()[None]), jnp.array([LENGTH]), jnp.asarray(tau)[:, None])
    return matrices, [*inputs, np.asarray(out.tokens[0])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_every_family_is_measured_as_its_full_matrices_are(name, monkeypatch):
    tau = temperatures(model(name)[0])
    found = probed(name, tau)
    matrices, states = looked_at(name, tau, monkeypatch)
    rates = [[filter_rate(a) for a in layer] for layer in matrices]
    entropies = [[attention_entropy(a) for a in layer] for layer in matrices]
    np.testing.assert_allclose(found.filter_rate, rates, rtol=2e-4)
    np.testing.assert_allclose(found.entropy, entropies, rtol=1e-4)
    shares = [high_frequency_share(x) for x in states]
    np.testing.assert_allclose(found.high / np.hypot(found.high, found.low), shares, rtol=1e-4)
    np.testing.assert_allclose(np.hypot(found.high, found.low), [np.linalg.norm(x) for x in states], rtol=1e-4)
    assert np.ptp(rates) > 0.05
    assert np.ptp(entropies) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("short", [0, 1024])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_hidden_states_are_the_models(name, short, monkeypatch):
    """A text may also be so long that attention is computed block by block."""
    monkeypatch.setattr("tsjax.lab.analysis.probe._SHORT", short)
    config, params = model(name)
    tau = temperatures(config)
    ids = np.zeros(32, np.int32)
    ids[:LENGTH] = token_ids()
    _, states = jax.jit(compiled_probe.__wrapped__, static_argnames="config")(
        params, ids, np.int32(LENGTH), tau, config=config
    )
    length = jnp.array([LENGTH], jnp.int32)
    inputs = Inputs(jnp.asarray(ids[None]), one_a_row(length, 32), jnp.zeros((1, 1), jnp.int32))
    settings = {"config": config, "kernel": "xla" if short else "windows", "with_tokens": True}
    expected = compiled_apply(params, inputs, jnp.asarray(tau), jnp.ones((1, 1)), **settings).tokens[0, :LENGTH]
    np.testing.assert_allclose(states[:LENGTH], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relative bias, no scale", "pre-norm, rotary, grouped, windows"])
def test_padding_changes_nothing(name):
    tau = temperatures(model(name)[0])
    tight, loose = probed(name, tau, padded=LENGTH), probed(name, tau, padded=40)
    for a, b in zip(tight._replace(steps=0), loose._replace(steps=0), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_a_temperature_reaches_its_layer_and_head():
    ones = np.ones((2, 3), np.float32)
    plain = probed("post-norm, absolute", ones)
    sharp = probed("post-norm, absolute", 0.5 * ones)
    assert (sharp.entropy < plain.entropy).all()
    one = ones.copy()
    one[1, 2] = 0.5
    changed = probed("post-norm, absolute", one)
    same = np.ones((2, 3), bool)
    same[1, 2] = False
    np.testing.assert_array_equal(changed.entropy[same], plain.entropy[same])
    np.testing.assert_array_equal(changed.filter_rate[same], plain.filter_rate[same])
    assert changed.entropy[1, 2] < plain.entropy[1, 2]


@pytest.mark.slow
def test_half_precision_is_close():
    config, params = model("post-norm, absolute")
    tau = temperatures(config)
    half = probe_text(cast_params(config, params, jnp.dtype("bfloat16")), token_ids(), 32, tau, 0, config)
    np.testing.assert_allclose(half.entropy, probed("post-norm, absolute", tau).entropy, atol=0.02)


@pytest.mark.slow
def test_it_works_where_64_bits_are_allowed():
    plain = probed("post-norm, absolute", temperatures(model("post-norm, absolute")[0]))
    config, params = model("post-norm, absolute")
    with jax.enable_x64(True):
        wide = probe_text(params, token_ids(), 32, temperatures(config), 0, config)
    np.testing.assert_allclose(wide.filter_rate, plain.filter_rate, rtol=1e-5)
    np.testing.assert_allclose(wide.entropy, plain.entropy, rtol=1e-5)


@pytest.mark.slow
def test_one_head_at_a_time_is_held():
    """The compiler's own figure for a long text is a few T × T matrices, not one for each head."""
    encoder = dataclasses.replace(PLAIN, num_heads=12, hidden_size=48, relative_buckets=8, relative_max_distance=16)
    config = ModelConfig(encoder=encoder)
    tokens = 1280
    shapes = (
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((2, 12), jnp.float32),
    )
    memory = compiled_probe.lower(abstract_params(config), *shapes, config=config).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 4 * tokens**2


# -- the power iteration ----------------------------------------------------------------------------------------------

iterate = jax.jit(largest_singular_value)
SIZE = 24


def padded(matrix):
    out = np.zeros((SIZE, SIZE), np.float32)
    out[: len(matrix), : len(matrix)] = matrix
    return out


@settings(deadline=None, max_examples=60)
@example(length=22, sharp=0.0, toward=3.4375, seed=278)  # all rows are equal
@example(length=22, sharp=1e-6, toward=3.4375, seed=278)  # all rows are nearly equal
@given(length=st.integers(2, SIZE), sharp=st.floats(0, 8), toward=st.floats(0, 4), seed=st.integers(0, 999))
def test_the_power_iteration_gives_what_the_svd_gives(length, sharp, toward, seed):
    rng = np.random.default_rng(seed)
    logits = sharp * rng.standard_normal((length, length)) + toward * rng.standard_normal(length)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    rate, _ = iterate(padded(weights), np.int32(length))
    expected = filter_rate(weights / weights.astype(np.float64).sum(1, keepdims=True))
    np.testing.assert_allclose(rate, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("length", [2, 3, 5, SIZE])
def test_the_power_iteration_ends_where_there_is_nothing_to_tell_apart(length):
    rate, steps = iterate(padded(np.eye(length)), np.int32(length))
    assert rate == pytest.approx(1, abs=1e-5)
    assert steps < 20
    rate, steps = iterate(padded(np.full((length, length), 1 / length)), np.int32(length))
    assert rate == pytest.approx(0, abs=1e-6)
    assert steps < 20
    one = np.zeros((length, length))
    one[:, 1] = 1  # all rows attend to one token
    assert iterate(padded(one), np.int32(length))[0] == pytest.approx(0, abs=1e-5)
