"""Position encodings: rows of a table, rotations, biases by distance. Pure functions.

Shapes: R rows, T tokens of a row, N heads, H head size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tsjax.model.config import EncoderConfig
from tsjax.model.packing import Packing, by_token


def table_rows(config: EncoderConfig, input_ids: Int[Array, "R T"], packing: Packing) -> Int[Array, "R T"]:
    """The row of the position table that each token uses.

    RoBERTa's count passes over tokens that have the padding's id, also where they stand inside a text. A stride is
    that of e5-base-4k: short texts use every eighth row of a table that was stretched eightfold (arXiv:2404.12096).
    """
    rows = packing.positions
    if (padding := config.position_padding_id) is not None:
        counted = (input_ids != padding).astype(jnp.int32)
        count = jnp.cumsum(counted, axis=1)
        before = jnp.take_along_axis(count - counted, jnp.minimum(packing.starts, input_ids.shape[1] - 1), axis=1)
        rows = (count - by_token(before, packing)) * counted + padding
    if config.position_stride > 1:
        short = by_token(packing.lengths, packing) <= config.position_stride_up_to
        rows = jnp.where(short, rows * config.position_stride, rows)
    assert config.max_positions is not None  # the config has checked it
    return jnp.clip(rows, 0, config.max_positions - 1)  # padding may count on beyond the table


class Rotation(NamedTuple):
    """Cosines and sines of the angle by which each token turns each pair of features; float32."""

    cos: Float[Array, "R T half"]
    sin: Float[Array, "R T half"]


def rotation(positions: Int[Array, "R T"], head_size: int, theta: float, factor: float) -> Rotation:
    """The rotation of each token (RoFormer, arXiv:2104.09864): position / (factor · theta^(2i/H))."""
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = np.float32(1) / np.float32(theta) ** exponents / np.float32(factor)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "R T N H"], by: Rotation) -> Float[Array, "R T N H"]:
    """Turn each head's pairs of features, the i-th and the (i + H/2)-th, by the angle of the token's position."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[:, :, None, :], by.sin[:, :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def relative_bucket(
    offsets: Int[np.ndarray, " offsets"], buckets: int, max_distance: int
) -> Int[np.ndarray, " offsets"]:
    """The bucket of each offset, key minus query (T5, arXiv:1910.10683).

    Half of them are for keys that come later. Of each half, the nearer half has one a distance, and the farther half
    goes in logarithmic steps up to ``max_distance``.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offsets)
    # In float32 and in this order, so that a distance on a border does not fall to its other side.
    far = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = far / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    steps = np.minimum(exact + far.astype(np.int32), half - 1)
    return np.where(offsets > 0, half, 0) + np.where(distance < exact, distance, steps)


def relative_bias(table: Float[Array, "buckets N"], length: int, max_distance: int) -> Float[Array, "N offsets"]:
    """Return what each head adds to a logit by the offset of key minus query, from 1 − T to T − 1."""
    return table[relative_bucket(np.arange(1 - length, length), table.shape[0], max_distance)].T


def alibi_slopes(heads: int) -> list[float]:
    """Return the slope of each head (ALiBi, arXiv:2108.12409).

    A geometric series; where N is not a power of two, that of the power below it and then every other one of the
    power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes if heads == power else slopes + alibi_slopes(2 * power)[0::2][: heads - power]


def alibi_bias(heads: int, length: int) -> Float[Array, "N offsets"]:
    """Minus each head's slope times the distance, by the offset as in `relative_bias`."""
    distance = jnp.abs(jnp.arange(1 - length, length)).astype(jnp.float32)
    return -jnp.asarray(alibi_slopes(heads), jnp.float32)[:, None] * distance


def by_pair(
    by_offset: Float[Array, "N offsets"], query: Int[Array, ""] | int, queries: int, keys: int
) -> Float[Array, "N queries keys"]:
    """The biases of ``queries`` tokens from place ``query`` on, and of the first ``keys`` tokens of the same text."""
    first = by_offset.shape[1] // 2 - query  # of the first query and the first key
    index = jnp.arange(keys)[None, :] - jnp.arange(queries)[:, None] + first
    return by_offset[:, index]
