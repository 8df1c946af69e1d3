import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.parameters import random_params
from tests.support.tiers import fast_where
from tsjax.errors import InputError
from tsjax.model.config import EncoderConfig, HeadConfig, ModelConfig, PoolingConfig
from tsjax.model.forward import (
    Inputs,
    abstract_params,
    apply,
    compiled_apply,
    init_params,
    traced_programs,
    weight_shapes,
)
from tsjax.model.kernels.dispatch import View, attention
from tsjax.model.linear import PRECISION
from tsjax.model.packing import Packing, one_a_row
from tsjax.model.params import cast_params, flatten, unflatten
from tsjax.model.positions import by_pair

ENCODER = EncoderConfig(
    vocab_size=100, hidden_size=36, num_layers=3, num_heads=3, intermediate_size=50, max_positions=40, type_vocab_size=2
)
CONFIG = ModelConfig(encoder=ENCODER, heads=(HeadConfig(kind="normalize", in_features=36, out_features=36),))
PARAMS = random_params(CONFIG, seed=1)
ONES = jnp.ones((3, 1, 3))


def ids(lengths, total, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(5, 100, (len(lengths), total)), jnp.int32)


def packed(lengths, total):
    """Return a batch with one text per row."""
    lengths = jnp.asarray(lengths, jnp.int32)
    return Inputs(ids(lengths, total), one_a_row(lengths, total), jnp.zeros_like(lengths)[:, None])


def run(input_ids, lengths, temperature=ONES, params=PARAMS, config=CONFIG):
    return np.asarray(apply(config, params, input_ids, jnp.asarray(lengths, jnp.int32), temperature).embeddings)


def test_parameters_have_the_shapes_that_the_config_asks_for():
    params = jax.eval_shape(lambda: init_params(CONFIG, seed=1))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, PARAMS)
    assert {name: value.shape for name, value in flatten(CONFIG, PARAMS).items()} == weight_shapes(CONFIG)
    assert jax.tree.structure(PARAMS) == jax.tree.structure(abstract_params(CONFIG))
    assert weight_shapes(CONFIG)["encoder.layers.attention.query.kernel"] == (3, 36, 3, 12)
    assert jax.tree.structure(unflatten(flatten(CONFIG, PARAMS))) == jax.tree.structure(PARAMS)


@pytest.mark.slow
def test_layers_differ():
    kernel = flatten(CONFIG, init_params(CONFIG, seed=1))["encoder.layers.attention.query.kernel"]
    assert not np.allclose(kernel[0], kernel[1])


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["xla", "windows"])
def test_compile_time_does_not_grow_with_depth(kernel):
    def size(layers):
        config = ModelConfig(encoder=dataclasses.replace(ENCODER, num_layers=layers))
        arguments = (packed([8, 8], 8), jnp.ones((layers, 3)), jnp.ones((2, 1)))
        lowered = compiled_apply.lower(abstract_params(config), *arguments, config=config, kernel=kernel)
        return len(lowered.as_text().splitlines())

    assert size(24) == size(2)


def test_temperature_one_is_bit_for_bit_no_temperature(monkeypatch):
    def without(query, key, value, view, *, temperature, scale, **_):
        del temperature
        query = query.astype(jnp.float32) * scale
        logits = jnp.einsum("btnh,bsnh->bnts", query, key, precision=PRECISION)
        segments = view.packing.segments
        mask = segments[:, None, :, None] == segments[:, None, None, :]
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(logits, axis=-1), value, precision=PRECISION)

    lengths = [19, 7, 1]
    ours = jax.jit(lambda t: apply(CONFIG, PARAMS, ids(lengths, 19), jnp.asarray(lengths), t).embeddings)(ONES)
    monkeypatch.setattr("tsjax.model.encoder.attention", without)
    plain = jax.jit(lambda t: apply(CONFIG, PARAMS, ids(lengths, 19), jnp.asarray(lengths), t).embeddings)(ONES)
    np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize("kernel", ["xla", "mapped", "windows"])
def test_attention_divides_the_logits_of_each_head_and_text(kernel):
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.standard_normal((2, 5, 3, 4)), jnp.float32) for _ in range(3))
    temperature = np.array([[0.5, 1, 2], [0.7, 0.8, 0.9]], np.float32)
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    by_offset = rng.standard_normal((3, 9)).astype("f4")
    bias = by_offset[:, np.arange(5)[None, :] - np.arange(5)[:, None] + 4]
    packing = one_a_row(jnp.array([5, 3]), 5)
    view = View(packing, by_offset=jnp.asarray(by_offset), by_pair=by_pair(jnp.asarray(by_offset), 0, 5, 5))
    by_token = jnp.asarray(temperature)[:, None, :]
    ours = attention(query, key, value, view, temperature=by_token, scale=0.3, kernel=kernel)
    logits = (np.einsum("btnh,bsnh->bnts", query, key) * 0.3 + bias) / temperature[:, :, None, None]
    weights = np.exp(np.where(mask[:, None, None], logits, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bnts,bsnh->btnh", weights, value)
    np.testing.assert_allclose(np.asarray(ours)[mask], expected[mask], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
def test_both_kernels_that_have_a_gradient_have_the_same(causal, window):
    rng = np.random.default_rng(0)
    query, key, value, given = (jnp.asarray(rng.standard_normal((2, 7, 3, 4)), jnp.float32) for _ in range(4))
    by_offset = jnp.asarray(rng.standard_normal((3, 13)), jnp.float32)
    packing = Packing(
        jnp.array([[0] * 4 + [1] * 3, [0] * 5 + [2] * 2]),
        jnp.array([[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 0, 0]]),
        jnp.array([[0, 4], [0, 0]]),
        jnp.array([[4, 3], [5, 0]]),
    )
    local = None if window is None else jnp.array(True)
    view = View(packing, local=local, by_offset=by_offset, by_pair=by_pair(by_offset, 0, 7, 7))
    tau = jnp.asarray(rng.uniform(0.5, 1.5, (2, 7, 3)), jnp.float32)

    def run(kernel):
        def mixed(query, key, value, bias, tau):
            seen = view._replace(by_pair=bias)
            options = {"scale": 0.3, "causal": causal, "window": window, "kernel": kernel}
            return attention(query, key, value, seen, temperature=tau, **options)

        out, pullback = jax.vjp(mixed, query, key, value, view.by_pair, tau)
        return out, *pullback(given)

    for one, other in zip(jax.jit(lambda: run("xla"))(), jax.jit(lambda: run("mapped"))(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.abs(one).max() > 0.01


@pytest.mark.parametrize("shape", fast_where((3, 2, 3).__eq__, [(3, 1, 3), (3, 2, 3)]))
def test_gradients_reach_the_temperature(shape):
    lengths = [11, 6]
    target = np.random.default_rng(2).standard_normal((2, 36)).astype("f4")

    @jax.jit
    def loss(temperature):
        out = apply(CONFIG, PARAMS, ids(lengths, 11), jnp.asarray(lengths), temperature).embeddings
        return (out * target).sum()

    temperature = jnp.asarray(np.random.default_rng(3).uniform(0.5, 1.5, shape), jnp.float32)
    gradient = jax.jit(jax.grad(loss))(temperature)
    assert gradient.shape == shape
    step = 1e-2
    for place in [(0, 0, 0), (1, shape[1] - 1, 2), (2, 0, 1)]:
        change = jnp.zeros(shape).at[place].set(step)
        numeric = (loss(temperature + change) - loss(temperature - change)) / (2 * step)
        np.testing.assert_allclose(gradient[place], numeric, rtol=0.05, atol=2e-5)
    assert np.abs(gradient).min() > 0


@pytest.mark.slow
def test_a_temperature_changes_its_own_text_only():
    lengths = [9, 9]
    changed = jnp.ones((3, 2, 3)).at[:, 1].set(0.5)
    before, after = run(ids(lengths, 9), lengths, jnp.ones((3, 2, 3))), run(ids(lengths, 9), lengths, changed)
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-4


@jax.jit
def run_compiled(input_ids, lengths):
    return apply(CONFIG, PARAMS, input_ids, lengths, ONES).embeddings


@settings(deadline=None)
@given(st.lists(st.integers(1, 13), min_size=3, max_size=3), st.integers(0, 1000))
def test_padding_changes_nothing(lengths, seed):
    tight = ids(lengths, 13, seed)
    loose = np.array(ids([23] * 5, 23, seed + 1))
    loose[:3, :13] = np.where(np.arange(13) < np.array(lengths)[:, None], tight, loose[:3, :13])
    padded = run_compiled(loose, jnp.array([*lengths, 0, 0]))[:3]
    np.testing.assert_allclose(padded, run_compiled(tight, jnp.array(lengths)), atol=1e-6)


def test_an_input_longer_than_the_positions_is_refused():
    with pytest.raises(InputError, match="41 tokens; this model has positions for 40"):
        run(ids([41], 41), [41])


def test_annotations_can_be_read_at_run_time():
    """An axis string that a formatter took for code would fail here."""
    hints = typing.get_type_hints(apply)
    assert hints["temperature"].dim_str == "L #B N"


@pytest.mark.slow
def test_rows_without_a_text_are_finite():
    assert np.isfinite(run(ids([4, 0], 8), [4, 0])).all()


def test_one_program_a_shape_whatever_the_temperature():
    config = dataclasses.replace(CONFIG, pooling=PoolingConfig(modes=("max",)))  # a config that no other test has
    before = traced_programs()
    for tau in (1.0, 0.5, 0.123):
        for rows in (2, 3):
            compiled_apply(PARAMS, packed([8] * rows, 8), jnp.full((3, 3), tau), jnp.ones((rows, 1)), config=config)
    assert traced_programs() == before + 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close_and_norms_stay_in_float32(dtype):
    half = cast_params(CONFIG, PARAMS, jnp.dtype(dtype))
    flat = flatten(CONFIG, half)
    assert flat["encoder.layers.feed_forward.up.kernel"].dtype == dtype
    assert flat["encoder.layers.attention_norm.scale"].dtype == jnp.float32
    lengths = [19, 7, 1]
    ours, exact = run(ids(lengths, 19), lengths, params=half), run(ids(lengths, 19), lengths)
    assert ours.dtype == np.float32
    assert (ours * exact).sum(-1).min() > 0.999
    assert np.abs(ours - exact).max() > 0


@pytest.mark.slow
def test_heads_keep_float32_in_half_precision():
    config = ModelConfig(encoder=ENCODER, heads=(HeadConfig(kind="dense", in_features=36, out_features=7),))
    half = flatten(config, cast_params(config, random_params(config), jnp.dtype("bfloat16")))
    assert half["heads.0.linear.kernel"].dtype == jnp.float32
