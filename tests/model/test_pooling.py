"""Means of long texts: float32 sums that keep the accuracy of float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax.engine.batching import Batch, Shape, pack
from tsjax.model.packing import Packing
from tsjax.model.pooling import pool

SLOTS, WIDTH = 8, 24
MODES = ("mean", "mean_sqrt_len_tokens", "weightedmean")


@functools.partial(jax.jit, static_argnums=3)
def pooled(tokens, packing, prompt, modes):
    return pool(tokens, packing, prompt, modes)


@pytest.mark.parametrize("prompt", [0, 3, 40])
@pytest.mark.parametrize(
    "lengths", [[32768], [2048], [1000, 700, 331, 17], [16, 16, 16], [48, 1, 1, 1, 1, 1, 1, 1], [15, 2]]
)
def test_means_are_those_of_float64(lengths, prompt):
    """Some encoders have features far from 0, where adding one token after the other is off by a relative 1e-6."""
    lengths = np.array(lengths)
    tokens = sum(lengths) + 5
    values = np.random.default_rng(len(lengths)).normal(2, 1, (1, tokens, WIDTH)).astype("f4")
    values[0, sum(lengths) :] = np.nan  # padding may contain NaN
    packing = Packing(*pack(lengths, Batch((np.arange(len(lengths)),), Shape(1, int(tokens))), SLOTS))
    ours = np.asarray(pooled(jnp.asarray(values), packing, np.full((1, SLOTS), prompt, "i4"), MODES))[0]
    starts = np.cumsum([0, *lengths])
    for text, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        own = values[0, start + min(prompt, length) : start + length].astype("f8")
        if not len(own):
            np.testing.assert_array_equal(ours[text], 0)
            continue
        weights = np.arange(prompt, length)[:, None] + 1
        expected = [own.mean(0), own.sum(0) / np.sqrt(len(own)), (own * weights).sum(0) / weights.sum()]
        scale = np.concatenate([np.abs(value).max() * np.ones(WIDTH) for value in expected])
        np.testing.assert_array_less(np.abs(ours[text] - np.concatenate(expected)), 4e-7 * scale)
