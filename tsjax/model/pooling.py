"""From token vectors to one vector a text: the six modes of sentence-transformers, in float32."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tsjax.model.config import PoolingMode
from tsjax.model.linear import PRECISION
from tsjax.model.packing import Packing, by_token


def pool(
    tokens: Float[Array, "R T D"], packing: Packing, prompt_lengths: Int[Array, "R K"], modes: tuple[PoolingMode, ...]
) -> Float[Array, "R K P"]:
    """Pool each text's tokens; several modes are concatenated in order, so P = D · len(modes).

    Args:
        tokens: one vector a token.
        packing: which text each token is of.
        prompt_lengths: leading tokens of each text that pooling leaves out; 0 for none.
        modes: ``cls`` takes the first token, ``lasttoken`` the last, ``max`` the largest value of each feature,
            ``mean`` the mean, ``mean_sqrt_len_tokens`` the sum over the root of the count, and ``weightedmean`` the
            mean weighted by position, counted from 1 at the text's first token even where a prompt is left out.
    """
    tokens = tokens.astype(jnp.float32)
    lengths, slots = packing.lengths, packing.slots
    # What each token counts for: its text, or nothing.
    prompt = packing.positions < by_token(prompt_lengths, packing)
    slot = jnp.where(prompt, slots, packing.segments)
    count = jnp.maximum(lengths - prompt_lengths, 0).astype(jnp.float32)[..., None]
    some = jnp.maximum(count, 1e-9)

    def token_at(place: Int[Array, "R K"]) -> Float[Array, "R K D"]:
        place = jnp.clip(packing.starts + place, 0, tokens.shape[1] - 1)
        return jnp.take_along_axis(tokens, place[..., None], axis=1)

    def one(mode: PoolingMode) -> Float[Array, "R K D"]:
        match mode:
            case "cls":
                place = jnp.where(count[..., 0] > 0, prompt_lengths, 0)
                return jnp.where(lengths[..., None] > 0, token_at(place), 0)
            case "lasttoken":
                return jnp.where(count > 0, token_at(lengths - 1), 0)
            case "max":
                return jax.vmap(partial(jax.ops.segment_max, num_segments=slots))(tokens, slot)
            case "mean":
                return _total(tokens, slot, packing) / some
            case "mean_sqrt_len_tokens":
                return _total(tokens, slot, packing) / jnp.sqrt(some)
            case "weightedmean":
                weights = (packing.positions + 1).astype(jnp.float32)[..., None]
                weight = jnp.maximum(_total(weights, slot, packing), 1e-9)
                return _total(tokens * weights, slot, packing) / weight

    return jnp.concatenate([one(mode) for mode in modes], axis=-1)


def _total(values: Float[Array, "R T D"], slot: Int[Array, "R T"], packing: Packing) -> Float[Array, "R K D"]:
    """The sum of each text's tokens: a product with ones and zeros, but on a processor as it is said.

    One token after the other, a processor's sum of 1,024 tokens is off by 1e-6 of itself. So it adds the tokens of each
    block of a text first, and then the blocks, about as many as a block has tokens, which costs nothing and takes off
    three quarters of that, and more in longer texts.

    Args:
        values: one vector a token.
        slot: what each token counts for, K for nothing.
        packing: where the texts stand.
    """
    slots = packing.slots

    def added(values: Float[Array, "R T D"], slot: Int[Array, "R T"]) -> Float[Array, "R K D"]:
        size = 1 << values.shape[1].bit_length() // 2  # about the root of all tokens
        blocks = values.shape[1] // size + slots
        # No two texts share a block: a text of n tokens moves the next one's start by n, so its first block by
        # n // size or more, and by 1 for being the next.
        block = by_token(packing.starts // size + jnp.arange(slots), packing) + packing.positions // size
        block = jnp.where(slot < slots, block, blocks)
        parts = jax.vmap(partial(jax.ops.segment_sum, num_segments=blocks))(values, block)
        text = jax.vmap(partial(jax.ops.segment_max, num_segments=blocks))(slot, block)
        return jax.vmap(partial(jax.ops.segment_sum, num_segments=slots))(parts, text)

    def multiplied(values: Float[Array, "R T D"], slot: Int[Array, "R T"]) -> Float[Array, "R K D"]:
        values = jnp.where((slot < slots)[..., None], values, 0)  # what stands in padding may be no number
        own = slot[:, None, :] == jnp.arange(slots)[None, :, None]
        return jnp.einsum("rkt,rtd->rkd", own.astype(jnp.float32), values, precision=PRECISION)

    return jax.lax.platform_dependent(values, slot, cpu=added, default=multiplied)
