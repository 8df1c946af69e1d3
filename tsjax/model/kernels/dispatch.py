"""Attention with a temperature, softmax(query·key · scale / τ)·value: what it is, and the kernels that compute it.

A token attends to the tokens of its own text, of those only to earlier ones where attention is causal, and in local
layers only to those nearby. Every kernel gives the same but for rounding; `kernel_for` says which one suits a device.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from tsjax.model.config import EncoderConfig
from tsjax.model.kernels import cudnn, splash
from tsjax.model.kernels.cpu import Bias, windowed_attention
from tsjax.model.kernels.differentiable import mapped_attention
from tsjax.model.linear import PRECISION
from tsjax.model.packing import Packing
from tsjax.model.positions import Rotation

Kernel: TypeAlias = Literal["xla", "mapped", "windows", "cudnn", "splash"]


def kernel_for(platform: str, capability: str | None, config: EncoderConfig, dtype: str) -> Kernel:
    """The fastest kernel of those that can serve a model on a device.

    Plain XLA serves the rest: on a GPU float32, and the GPUs that cuDNN's flash attention is not for; on either
    accelerator models that add a bias to the logits.

    Args:
        platform: cpu, gpu or tpu.
        capability: of a GPU, for instance 9.0; None for other devices.
        config: the architecture.
        dtype: what the encoder computes in.
    """
    biased = config.relative_buckets is not None or config.alibi
    match platform:
        case "cpu":
            return "windows"
        case "gpu" if _is_ampere(capability) and cudnn.supports(config.head_dim, dtype, biased=biased):
            return "cudnn"
        case "tpu" if splash.supports(128, config.num_heads, config.head_dim, biased=biased):
            return "splash"
    return "xla"


def _is_ampere(capability: str | None) -> bool:
    """Return whether a GPU is of that NVIDIA generation or a later one; other vendors' capabilities are not numbers."""
    version = re.fullmatch(r"(\d+)\.\d+", capability or "")
    return version is not None and int(version[1]) >= 8


class View(NamedTuple):
    """The view of a layer besides the vectors of the tokens.

    Attributes:
        packing: which tokens are of one text.
        local: whether this layer sees a window only; None where no layer does.
        rotation: how queries and keys are turned; None for not at all.
        by_offset: what is added to the logits by the offset of key and query, from 1 − T to T − 1; None for nothing.
        by_pair: the same for each query and key of a row, where the kernel wants it so.
    """

    packing: Packing
    local: Bool[Array, ""] | None = None
    rotation: Rotation | None = None
    by_offset: Float[Array, "N offsets"] | None = None
    by_pair: Float[Array, "N T T"] | None = None


def attention(
    query: Float[Array, "R T N H"],
    key: Float[Array, "R T N H"],
    value: Float[Array, "R T N H"],
    view: View,
    *,
    temperature: Float[Array, "#R #T N"],
    scale: float,
    causal: bool = False,
    window: int | None = None,
    longest: int | None = None,
    kernel: Kernel = "xla",
) -> Float[Array, "R T N H"]:
    """Mix the values of the keys that each query attends to.

    The query is divided by the temperature, rather than the logits, because that serves every kernel, also those
    whose scale is static; a bias is divided as well, as in the paper's own code. ``scale / τ`` is one float32 factor a
    token and head, so τ = 1 gives the bits of no temperature at all. Logits and softmax are float32 whatever the
    operands are.

    Args:
        query: what asks.
        key: what is asked.
        value: what is mixed.
        view: who sees whom.
        temperature: τ by token (or 1 for all alike) and head.
        scale: factor on query·key, usually 1/√H.
        causal: whether a token sees only those before it.
        window: how many tokens to each side a local layer sees.
        longest: the most tokens that a text can have; None for any number.
        kernel: what computes it.
    """
    query = scaled(query, temperature, scale, key.dtype)
    reach = reach_of(view, window)
    if kernel == "windows":
        inverse = jnp.broadcast_to(1 / temperature, query.shape[:3])
        by_offset = None if view.by_offset is None else Bias(view.by_offset, inverse)
        return windowed_attention(
            query, key, value, view.packing, bias=by_offset, causal=causal, reach=reach, longest=longest
        )
    if kernel in ("cudnn", "splash"):
        assert kernel == "splash" or view.packing.slots == 1, "cuDNN has lengths, and no segments"
        by_row = (
            partial(cudnn.cudnn_attention, lengths=view.packing.lengths[:, 0], causal=causal)
            if kernel == "cudnn"
            else partial(splash.splash_attention, segments=view.packing.segments, causal=causal)
        )
        if view.local is None:
            return by_row(query, key, value)
        return jax.lax.cond(view.local, partial(by_row, window=window), by_row, query, key, value)
    if kernel == "mapped":
        inverse = jnp.broadcast_to(1 / temperature, query.shape[:3])
        return mapped_attention(
            query, key, value, view.packing.segments, bias=view.by_pair, inverse=inverse, causal=causal, reach=reach
        )
    bias = None if view.by_pair is None else view.by_pair[None] / jnp.swapaxes(temperature, 1, 2)[..., None]
    segments = view.packing.segments
    logits = masked_logits(query, key, (segments, segments), bias=bias, causal=causal, reach=reach)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("rnts,rsnh->rtnh", weights, value, precision=PRECISION)


def scaled(
    query: Float[Array, "R T N H"], temperature: Float[Array, "#R #T N"], scale: float, dtype: DTypeLike
) -> Float[Array, "R T N H"]:
    """The query times ``scale / τ``, so that its products with the keys are the logits."""
    factor = (scale / temperature.astype(jnp.float32))[..., None]
    return (query.astype(jnp.float32) * factor).astype(dtype)


def reach_of(view: View, window: int | None) -> Int[Array, ""] | None:
    """Return the tokens that a layer sees to each side: the window if it is local, else all; None if no layer is."""
    if view.local is None or window is None:
        return None
    return jnp.where(view.local, window, view.packing.segments.shape[1])


def masked_logits(
    query: Float[Array, "R Q N H"],
    key: Float[Array, "R T N H"],
    segments: tuple[Int[Array, "R Q"], Int[Array, "R T"]],
    *,
    first: int | Int[Array, ""] = 0,
    bias: Float[Array, "#R N Q T"] | None = None,
    causal: bool = False,
    reach: Int[Array, ""] | None = None,
) -> Float[Array, "R N Q T"]:
    """Return the float32 logits of each query, and the least number where a query does not see the key.

    Args:
        query: scaled (see `scaled`); all of a row, or Q that follow each other.
        key: what is asked.
        segments: which text each query and each key is of.
        first: the place of the first query in its row.
        bias: what is added, divided by τ already; None for nothing.
        causal: whether a token sees only those before it.
        reach: how many tokens to each side are seen; None for all.
    """
    logits = jnp.einsum("rtnh,rsnh->rnts", query, key, precision=PRECISION, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    queries, keys = segments
    seen = queries[:, :, None] == keys[:, None, :]
    offset = jnp.arange(key.shape[1])[None, :] - (first + jnp.arange(query.shape[1]))[:, None]
    if causal:
        seen = seen & (offset <= 0)
    if reach is not None:
        seen = seen & (jnp.abs(offset) <= reach)
    return jnp.where(seen[:, None], logits, jnp.finfo(jnp.float32).min)
