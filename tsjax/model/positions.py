"""How a network can tell where a token stands: rows of a table, rotations, biases by distance. Pure functions.

Shapes: B texts, T tokens, N heads, H head size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tsjax.model.config import EncoderConfig


def table_rows(config: EncoderConfig, input_ids: Int[Array, "B T"], lengths: Int[Array, " B"]) -> Int[Array, "#B T"]:
    """The row of the position table that each token uses.

    RoBERTa's count passes over tokens that have the padding's id, also where they stand inside a text. A stride is
    that of e5-base-4k: short texts use every eighth row of a table that was stretched eightfold (arXiv:2404.12096).
    """
    rows = jnp.arange(input_ids.shape[1])[None, :]
    if (padding := config.position_padding_id) is not None:
        counted = (input_ids != padding).astype(jnp.int32)
        rows = jnp.cumsum(counted, axis=1) * counted + padding
    if config.position_stride > 1:
        short = (lengths <= config.position_stride_up_to)[:, None]
        strided = jnp.minimum(rows * config.position_stride, (config.max_positions or 1) - 1)  # the rest is padding
        rows = jnp.where(short, strided, rows)
    return rows


class Rotation(NamedTuple):
    """Cosines and sines of the angle by which each position turns each pair of features; float32."""

    cos: Float[Array, "T half"]
    sin: Float[Array, "T half"]


def rotation(length: int, head_size: int, theta: float, factor: float) -> Rotation:
    """The rotations of ``length`` positions (RoFormer, arXiv:2104.09864): position / (factor · theta^(2i/H))."""
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    frequencies = np.float32(1) / np.float32(theta) ** exponents / np.float32(factor)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies[None, :]
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "B T N H"], by: Rotation) -> Float[Array, "B T N H"]:
    """Turn each head's pairs of features, the i-th and the (i + H/2)-th, by the angle of the token's position."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = by.cos[:, None, :], by.sin[:, None, :]
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
    # In float32 and in this order, lest a distance that is a border fall to its other side.
    far = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = far / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    steps = np.minimum(exact + far.astype(np.int32), half - 1)
    return np.where(offsets > 0, half, 0) + np.where(distance < exact, distance, steps)


def relative_bias(table: Float[Array, "buckets N"], length: int, max_distance: int) -> Float[Array, "1 N T T"]:
    """What each head adds to the logit of a query and a key, by the bucket of their offset."""
    offsets = np.arange(1 - length, length)
    by_offset = table[relative_bucket(offsets, table.shape[0], max_distance)]
    positions = jnp.arange(length)
    index = positions[None, :] - positions[:, None] + length - 1
    return by_offset[index].transpose(2, 0, 1)[None]


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head (ALiBi, arXiv:2108.12409).

    A geometric series; where N is not a power of two, that of the power below it and then every other one of the
    power above.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes if heads == power else slopes + alibi_slopes(2 * power)[0::2][: heads - power]


def alibi_bias(heads: int, length: int) -> Float[Array, "1 N T T"]:
    """Minus each head's slope times the distance, to both sides alike."""
    positions = jnp.arange(length)
    distance = jnp.abs(positions[None, :] - positions[:, None]).astype(jnp.float32)
    return -jnp.asarray(alibi_slopes(heads), jnp.float32)[None, :, None, None] * distance


def within(window: int, length: int) -> Bool[Array, "1 T T"]:
    """Which keys stand at most ``window`` tokens from a query."""
    positions = jnp.arange(length)
    return (jnp.abs(positions[None, :] - positions[:, None]) <= window)[None]


def not_later(length: int) -> Bool[Array, "1 T T"]:
    """Which keys stand no later than a query."""
    positions = jnp.arange(length)
    return (positions[None, :] <= positions[:, None])[None]
