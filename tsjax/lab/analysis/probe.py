"""Measurements of attention inside the network, for each layer and head, computed on the device.

The encoder itself runs and is observed: hidden states, masks, biases and temperatures are those that make the vectors.
Heads are processed one after the other, each with one T × T matrix, so that a text of 8,192 tokens takes some hundred
megabytes.

Shapes: T tokens, padding included; N heads, H head size, D model size, L layers.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tsjax.engine.jax_modes import usual_modes
from tsjax.model.compiling import jit
from tsjax.model.config import EncoderConfig, ModelConfig
from tsjax.model.encoder import Layer, LayerInput
from tsjax.model.kernels.dispatch import Kernel, masked_logits, reach_of, scaled
from tsjax.model.linear import PRECISION
from tsjax.model.network import bind
from tsjax.model.packing import one_a_row
from tsjax.model.params import Params
from tsjax.model.positions import by_pair

# Queries in a block. Its logits, weights and masks are small compared with the T × T weights.
_QUERIES = 256

_SHORT = 1024

# Number of vectors iterated together. A single vector converges slowly if the two largest singular values are close.
# The error of a block shrinks by the ratio of the largest value to the first value after the block.
_BLOCK = 8
_TOLERANCE = 2e-6
_MOST_STEPS = 200


class Probe(NamedTuple):
    """Measurements of one text.

    Attributes:
        filter_rate: σ_a, the largest singular value of (I − 11ᵀ/n)·A, of each layer and head.
        entropy: the attention entropy of each layer and head, over log n (see `tsjax.lab.analysis.attention_entropy`).
        steps: the number of steps of the power iteration.
        high: ‖HC[X]‖_F of the hidden states X: the inputs of each layer, and the output of the last one (after the
            final norm, where the model has one).
        low: ‖DC[X]‖_F of the same states.
    """

    filter_rate: Float[Array, "L N"]
    entropy: Float[Array, "L N"]
    steps: Int[Array, "L N"]
    high: Float[Array, " depths"]
    low: Float[Array, " depths"]


@functools.partial(jit, static_argnames="config")
def compiled_probe(
    params: Params,
    input_ids: Int[Array, " T"],
    length: Int[Array, ""],
    temperature: Float[Array, "L N"],
    *,
    config: ModelConfig,
) -> tuple[Probe, Float[Array, "T D"]]:
    """Measure one text; return the measures and the hidden states of the last layer.

    Every number of tokens T compiles its own program, so pad to few distinct lengths.

    Args:
        params: nested dict of arrays, in the compute dtype, as for `tsjax.model.forward.apply`.
        input_ids: int32 token ids, padded to T.
        length: int32, the number of tokens of the text, at least 2.
        temperature: float32 τ of this text by layer and head.
        config: the architecture.
    """
    packing = one_a_row(length[None], input_ids.shape[0])
    inside = packing.segments[0] == 0
    encoder = bind(config, params).encoder

    def observe(layer: Layer, given: LayerInput) -> tuple[Any, ...]:
        return (*_heads(config.encoder, layer, given, length), *_frequencies(given.x[0], inside))

    # Long texts use the blockwise kernel. The other kernel holds the T × T logits of all heads at once, but compiles
    # in a third of the time.
    kernel: Kernel = "xla" if input_ids.shape[0] <= _SHORT else "windows"
    tau = temperature[:, None, None, :]
    states, found = encoder.observed(input_ids[None], packing, tau, kernel=kernel, observe=observe)
    last = _frequencies(states[0], inside)
    high, low = (jnp.append(by_layer, end) for by_layer, end in zip(found[3:], last, strict=True))
    rates, entropies, steps, _, _ = found
    return Probe(rates, entropies, steps, high, low), states[0]


def _frequencies(x: Float[Array, "T D"], inside: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return ‖HC[X]‖_F and ‖DC[X]‖_F of a text's tokens."""
    count = inside.sum()
    mean = jnp.where(inside[:, None], x, 0).sum(axis=0) / count
    rest = jnp.where(inside[:, None], x - mean, 0)
    return jnp.linalg.norm(rest), jnp.linalg.norm(mean) * jnp.sqrt(count.astype(jnp.float32))


def _heads(
    config: EncoderConfig, layer: Layer, given: LayerInput, length: Int[Array, ""]
) -> tuple[Float[Array, " N"], Float[Array, " N"], Int[Array, " N"]]:
    """Return σ_a, entropy and steps of each head of a layer."""
    view = given.view
    query, key, _ = layer.attention.project(layer.attention_input(given.x, given.first), view)
    query = scaled(query, given.temperature, config.logit_scale, key.dtype)
    segments, tokens = view.packing.segments, query.shape[1]
    reach = reach_of(view, config.local_window)
    size = next(size for size in range(min(_QUERIES, tokens), 0, -1) if tokens % size == 0)
    log_n = jnp.log(length.astype(jnp.float32))

    def one(head: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
        own_query, own_key = (jax.lax.dynamic_slice_in_dim(x, head, 1, axis=2) for x in (query, key))
        offsets = None if view.by_offset is None else jax.lax.dynamic_slice_in_dim(view.by_offset, head, 1, 0)

        def block(first: Int[Array, ""]) -> tuple[Float[Array, "Q T"], Float[Array, " Q"]]:
            bias = None
            if offsets is not None:
                bias = by_pair(offsets, first, size, tokens)[None] / given.temperature[0, 0, head]
            logits = masked_logits(
                jax.lax.dynamic_slice_in_dim(own_query, first, size, axis=1),
                own_key,
                (jax.lax.dynamic_slice_in_dim(segments, first, size, axis=1), segments),
                first=first,
                bias=bias,
                causal=config.causal,
                reach=reach,
            )[0, 0]
            asks = (first + jnp.arange(size) < length)[:, None]
            weights = jnp.where(asks, jax.nn.softmax(logits, axis=-1), 0)
            return weights, jax.scipy.special.entr(weights).sum(axis=-1)

        weights, entropies = jax.lax.map(block, jnp.arange(0, tokens, size))
        rate, steps = largest_singular_value(weights.reshape(tokens, tokens), length)
        return rate, entropies.sum() / (length * log_n), steps

    rates, entropies, steps = jax.lax.map(one, jnp.arange(config.num_heads))
    return rates, entropies, steps


def largest_singular_value(
    attention: Float[Array, "T T"], length: Int[Array, ""]
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Return σ_a of the first ``length`` rows and columns, and the number of steps; the rest of the matrix is zero.

    Power iteration on HC[A]ᵀ·HC[A] with a block of vectors (Rutishauser's subspace iteration): V ← orth(AᵀHA·V), and
    σ² is the largest eigenvalue of (HA·V)ᵀ(HA·V). It ends when σ changes by less than two millionths, or after 200
    steps.
    """
    tokens = attention.shape[0]
    inside = (jnp.arange(tokens) < length)[:, None]
    # HC[A] does not contain the part that all rows share. Subtracting it first avoids its rounding errors where rows
    # are alike.
    attention = jnp.where(inside, attention - attention[0], 0)

    def centred(x: Float[Array, "T block"]) -> Float[Array, "T block"]:
        return jnp.where(inside, x - x.sum(axis=0) / length, 0)  # rows beyond the text are zero already

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        vectors, before, _, steps = state
        passed = centred(jnp.matmul(attention, vectors, precision=PRECISION))
        gram = jnp.matmul(passed.T, passed, precision=PRECISION)
        rate = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 0))
        # A product from the left, because A transposed would be written to memory again in every step.
        vectors, _ = jnp.linalg.qr(jnp.matmul(passed.T, attention, precision=PRECISION).T)
        return vectors, rate, jnp.abs(rate - before), steps + 1

    def moving(state: tuple[Array, Array, Array, Array]) -> Array:
        _, rate, change, steps = state
        return (change > _TOLERANCE * rate) & (steps < _MOST_STEPS)

    start = jnp.where(inside, jax.random.normal(jax.random.key(0), (tokens, min(_BLOCK, tokens)), jnp.float32), 0)
    vectors, _ = jnp.linalg.qr(start)
    initial = (vectors, jnp.float32(0), jnp.float32(jnp.inf), jnp.int32(0))
    _, rate, _, steps = jax.lax.while_loop(moving, step, initial)
    return rate, steps


@usual_modes()
def probe_text(
    params: Params, ids: Int[np.ndarray, " n"], padded: int, temperature: Any, pad_token_id: int, config: ModelConfig
) -> Probe:
    """Run `compiled_probe` on the token ids of a text, padded to ``padded``; return the measures as NumPy arrays."""
    filled = np.full(padded, pad_token_id, np.int32)
    filled[: len(ids)] = ids
    found, _ = compiled_probe(params, filled, np.int32(len(ids)), temperature, config=config)
    host: Probe = jax.device_get(found)
    return host
