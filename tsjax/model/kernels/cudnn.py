"""Attention on an NVIDIA GPU by cuDNN's flash attention, through JAX's public interface: padded texts by their lengths.

That interface has lengths but no segments, so each text has a row of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def supports(head_size: int, dtype: str, *, biased: bool) -> bool:
    """Return whether cuDNN can serve a model.

    Args:
        head_size: size of each head.
        dtype: what the encoder computes in.
        biased: whether something is added to the logits. It could, but with a tensor of every text's logits.
    """
    return not biased and dtype in ("bfloat16", "float16") and head_size % 8 == 0 and head_size <= 128


def cudnn_attention(
    query: Float[Array, "R T N H"],
    key: Float[Array, "R T N H"],
    value: Float[Array, "R T N H"],
    lengths: Int[Array, " R"],
    *,
    causal: bool = False,
    window: int | None = None,
) -> Float[Array, "R T N H"]:
    """softmax(query·key)·value within each row's first tokens; what comes out for padding means nothing.

    Args:
        query: scaled.
        key: what is asked.
        value: what is mixed.
        lengths: tokens of each row's text.
        causal: whether a token sees only those before it.
        window: how many tokens to each side are seen; None for all.
    """
    lengths = jnp.maximum(lengths, 1)  # a softmax over nothing is not a number
    mask = None
    if window is not None and not causal:
        # Of windows, cuDNN has only those to one side.
        places = jnp.arange(query.shape[1])
        mask = (jnp.abs(places[None, :] - places[:, None]) <= window)[None, None]
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        scale=1.0,
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        local_window_size=(window, 0) if window is not None and causal else None,
        implementation="cudnn",
    )
