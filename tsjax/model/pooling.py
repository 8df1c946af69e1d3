"""From token vectors to one vector a text: the six modes of sentence-transformers, in float32."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tsjax.model.config import PoolingMode


def pool(
    tokens: Float[Array, "B T D"],
    lengths: Int[Array, " B"],
    prompt_lengths: Int[Array, " B"],
    modes: tuple[PoolingMode, ...],
) -> Float[Array, "B P"]:
    """Pool each text's tokens; several modes are concatenated in order, so P = D · len(modes).

    Args:
        tokens: one vector a token.
        lengths: tokens of each text, special ones included.
        prompt_lengths: leading tokens of each text that pooling leaves out; 0 for none.
        modes: ``cls`` takes the first token, ``lasttoken`` the last, ``max`` the largest value of each feature,
            ``mean`` the mean, ``mean_sqrt_len_tokens`` the sum over the root of the count, and ``weightedmean`` the
            mean weighted by position, counted from 1 at the text's first token even where a prompt is left out.
    """
    tokens = tokens.astype(jnp.float32)
    positions = jnp.arange(tokens.shape[1])[None, :]
    taken = (positions >= prompt_lengths[:, None]) & (positions < lengths[:, None])
    mask = taken[:, :, None].astype(jnp.float32)
    count = jnp.maximum(mask.sum(axis=1), 1e-9)

    def one(mode: PoolingMode) -> Float[Array, "B D"]:
        match mode:
            case "cls":
                return _token_at(tokens, jnp.argmax(taken, axis=1))
            case "lasttoken":
                return _token_at(tokens * mask, jnp.maximum(lengths - 1, 0))
            case "max":
                return jnp.where(mask > 0, tokens, -jnp.inf).max(axis=1)
            case "mean":
                return (tokens * mask).sum(axis=1) / count
            case "mean_sqrt_len_tokens":
                return (tokens * mask).sum(axis=1) / jnp.sqrt(count)
            case "weightedmean":
                weights = mask * (positions[:, :, None] + 1)
                return (tokens * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1e-9)

    return jnp.concatenate([one(mode) for mode in modes], axis=-1)


def _token_at(tokens: Float[Array, "B T D"], index: Int[Array, " B"]) -> Float[Array, "B D"]:
    return jnp.take_along_axis(tokens, index[:, None, None], axis=1)[:, 0]
