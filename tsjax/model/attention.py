"""Attention with a temperature, softmax(query·key · scale / τ)·value: one function; faster back ends go behind it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tsjax.model.linear import PRECISION


def attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    *,
    mask: Bool[Array, "B #T S"],
    temperature: Float[Array, "#B N"],
    scale: float,
    bias: Float[Array, "#B N T S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Mix the values of the keys that each query attends to.

    The query is divided by the temperature, rather than the logits, because that serves every back end, also those
    whose scale is static; a bias is divided as well, as in the paper's own code. ``scale / τ`` is one float32 factor a
    text and head, so τ = 1 gives the bits of no temperature at all. Logits and softmax are float32 whatever the
    operands are.

    Args:
        query: what asks.
        key: what is asked.
        value: what is mixed.
        mask: which keys a query sees. One that sees none (in a padding row) gets the plain mean of the values, not NaN.
        temperature: τ by text (or 1 for all alike) and head.
        scale: factor on query·key, usually 1/√H.
        bias: what is added to the scaled logits, for instance for relative positions.
    """
    factor = (scale / temperature.astype(jnp.float32))[:, None, :, None]
    query = (query.astype(jnp.float32) * factor).astype(key.dtype)
    logits = jnp.einsum("btnh,bsnh->bnts", query, key, precision=PRECISION, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias / temperature[:, :, None, None]
    logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnts,bsnh->btnh", weights, value, precision=PRECISION)
