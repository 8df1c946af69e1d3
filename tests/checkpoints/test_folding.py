"""Parameters with a temperature folded in give at τ = 1 what the originals give with it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import tsjax
from tests.support.parameters import random_params
from tests.support.tiers import fast_where
from tsjax.errors import InputError
from tsjax.model.config import EncoderConfig, ModelConfig
from tsjax.model.forward import apply
from tsjax.model.params import cast_params
from tsjax.temperature import LogLength, Temperature

BERT = EncoderConfig(
    vocab_size=100, hidden_size=36, num_layers=3, num_heads=3, intermediate_size=50, max_positions=40, type_vocab_size=2
)
BIASED = dataclasses.replace(
    BERT, absolute_positions=False, max_positions=None, relative_buckets=32, relative_max_distance=64
)
NORMED = dataclasses.replace(
    BERT, absolute_positions=False, rope_theta=1e4, query_key_norm=True, norm="rms_norm", norm_offset=1.0
)
SHARED = dataclasses.replace(BERT, shared_layers=True)
PER_LAYER = [0.9, 0.7, 1.3]
PER_HEAD = [[0.9, 0.7, 1.3], [0.5, 1.0, 2.0], [0.8, 0.6, 1.1]]


def vectors(config, params, tau):
    rng = np.random.default_rng(0)
    ids, lengths = jnp.asarray(rng.integers(5, 100, (4, 17)), jnp.int32), jnp.array([17, 9, 2, 1])
    per_head = Temperature.of(tau).per_head(config.encoder.num_layers, config.encoder.num_heads)
    return np.asarray(apply(config, params, ids, lengths, jnp.asarray(per_head[:, None])).embeddings)


CASES = [
    *((BERT, tau) for tau in (1, 0.7, PER_LAYER, PER_HEAD)),
    (dataclasses.replace(BERT, attention_bias=False), PER_HEAD),
    (BIASED, 0.7),
    (BIASED, [[0.9, 0.7, 1.3]] * 3),
    (NORMED, 0.7),
    (NORMED, PER_LAYER),
    (SHARED, [[0.9, 0.7, 1.3]] * 3),
    (dataclasses.replace(NORMED, shared_layers=True), 0.7),
]


@pytest.mark.parametrize("case", fast_where(lambda case: case[0] is BERT and case[1] is PER_HEAD, CASES))
def test_the_vectors_are_those_of_the_temperature(case):
    encoder, tau = case
    config = ModelConfig(encoder=encoder)
    params = random_params(config, seed=1)
    expected = vectors(config, params, tau)
    folded = tsjax.fold(params, tau, config)
    np.testing.assert_allclose(vectors(config, folded, 1), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert tau == 1 or np.abs(vectors(config, params, 1) - expected).max() > 1e-4


def test_the_originals_and_the_dtypes_stay():
    config = ModelConfig(encoder=BERT)
    params = cast_params(config, random_params(config), jnp.dtype("bfloat16"))
    before = np.asarray(params["encoder"]["layers"]["attention"]["query_key_value"]["kernel"])
    folded = tsjax.fold(params, 0.5, config)
    after = folded["encoder"]["layers"]["attention"]["query_key_value"]["kernel"]
    np.testing.assert_array_equal(params["encoder"]["layers"]["attention"]["query_key_value"]["kernel"], before)
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(after[:, :, :3], 2 * before[:, :, :3])
    np.testing.assert_array_equal(after[:, :, 3:], before[:, :, 3:])


@pytest.mark.parametrize(
    ("encoder", "tau", "message"),
    [
        (BERT, Temperature(0.9, LogLength(16)), "follows the text's length"),
        (BERT, Temperature(0.9, query=1), "of their own"),
        (BERT, [0.9, 0.8], "3 layers of 3 heads"),
        (BIASED, PER_LAYER, "share weights or position biases"),
        (SHARED, PER_LAYER, "share weights"),
        (NORMED, PER_HEAD, "normalised alike"),
        (dataclasses.replace(BERT, absolute_positions=False, alibi=True), 0.9, "ALiBi"),
    ],
)
def test_what_no_weights_can_express_is_refused(encoder, tau, message):
    config = ModelConfig(encoder=encoder)
    with pytest.raises(InputError, match=message):
        tsjax.fold(random_params(config), tau, config)


def test_what_the_dtype_cannot_hold_is_refused():
    config = ModelConfig(encoder=BERT)
    params = cast_params(config, random_params(config), jnp.dtype(jnp.float16))
    with pytest.raises(InputError, match=r"float16 cannot hold .*query\.kernel divided by a temperature of 1e-06"):
        tsjax.fold(params, 1e-6, ModelConfig(encoder=BERT))
