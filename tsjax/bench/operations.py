"""Floating-point operations: the number that texts need of a model, and the machine's maximum rate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.model.linear import PRECISION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float
    from numpy.typing import NDArray

    from tsjax.model.config import EncoderConfig, ModelConfig


def useful_operations(config: ModelConfig, lengths: Sequence[int] | NDArray[np.integer]) -> int:
    """Return the number of floating-point operations that texts of these lengths need.

    Only matrix products count, with an addition and a product each: those of the linear layers, over the real tokens,
    and the two of attention, over the query-key pairs that the model sees (a window, or the preceding tokens). Padding,
    softmax, norms and activations are not counted. For BERT this is the familiar 24·D² + 4·T·D for each token of a text
    of T and each layer.
    """
    encoder = config.encoder
    lengths = np.array(lengths, np.int64)
    tokens = int(lengths.sum())
    local = len(set(encoder.local_layers))
    pairs = (encoder.num_layers - local) * _pairs(lengths, None, causal=encoder.causal)
    pairs += local * _pairs(lengths, encoder.local_window, causal=encoder.causal)
    attention = 4 * encoder.num_heads * encoder.head_dim * pairs
    projection = 0 if encoder.embedding_size is None else 2 * encoder.embedding_size * encoder.hidden_size
    linear = tokens * (2 * encoder.num_layers * _weights(encoder) + projection)
    dense = sum(
        head.in_features * head.out_features * (2 if head.residual and head.in_features != head.out_features else 1)
        for head in config.heads
        if head.kind == "dense"
    )
    return linear + attention + 2 * dense * len(lengths)


def _weights(encoder: EncoderConfig) -> int:
    """Return the number of entries in the matrices of one layer."""
    width, heads = encoder.hidden_size, encoder.num_heads * encoder.head_dim
    key_value = encoder.key_value_heads * encoder.head_dim
    matrices = 3 if encoder.feed_forward == "gated" else 2
    return width * (2 * heads + 2 * key_value) + matrices * width * encoder.intermediate_size


def _pairs(lengths: NDArray[np.integer], window: int | None, *, causal: bool) -> int:
    """Return the number of visible query-key pairs, over all texts, in one layer of one head."""
    # Distance that a query sees to each side, within the tokens of the text.
    reach = lengths - 1 if window is None else np.minimum(window, lengths - 1)
    before = reach * lengths - reach * (reach + 1) // 2
    pairs = lengths + (before if causal else 2 * before)
    return int(pairs[lengths > 0].sum())


def matrix_rate(config: ModelConfig, dtype: str, tokens: int, *, seconds: float = 1.0) -> float:
    """Measure the machine's rate of matrix products of this model's sizes, in floating-point operations per second.

    The products are (tokens, D) · (D, F) and back by (F, D), with nothing in between, as JAX compiles them; the result
    is the best of several rounds.

    Args:
        config: configuration that defines D and F.
        dtype: compute dtype.
        tokens: number of rows, as many as the engine puts in a batch.
        seconds: approximate duration of the measurement.
    """
    width, wide = config.encoder.hidden_size, config.encoder.intermediate_size
    keys = jax.random.split(jax.random.key(0), 3)
    # Scaled so that the values keep their magnitude over any number of products.
    up = (jax.random.normal(keys[0], (width, wide)) / width**0.5).astype(dtype)
    down = (jax.random.normal(keys[1], (wide, width)) / wide**0.5).astype(dtype)
    x = jax.random.normal(keys[2], (tokens, width)).astype(dtype)

    @jax.jit
    def up_and_down(x: Float[Array, "T D"], up: Float[Array, "D F"], down: Float[Array, "F D"]) -> Float[Array, "T D"]:
        return jnp.matmul(jnp.matmul(x, up, precision=PRECISION), down, precision=PRECISION)

    def run(times: int) -> float:
        y, start = x, time.perf_counter()
        for _ in range(times):  # each product waits for the previous one, and JAX gets them ahead of time
            y = up_and_down(y, up, down)
        y.block_until_ready()
        return time.perf_counter() - start

    run(1)
    once = min(run(1), run(1))
    times = max(1, round(seconds / 10 / once))
    best = min(run(times) for _ in range(max(3, min(10, round(seconds / once))))) / times
    return 4.0 * tokens * width * wide / min(best, once)
