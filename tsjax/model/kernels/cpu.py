"""Attention text by text and head by head, for processors: the scores at work stay in a core's cache.

One einsum over all texts and heads writes and reads every score several times through memory. Here a loop takes one
text and a few heads at a time, cut out of the packed rows by a window of one of few sizes, so that texts of any
lengths share a compiled program and no score is computed for padding beyond the window. A text too long for that goes
block by block of its queries, so that memory does not grow with the square of its length.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tsjax.model.linear import PRECISION
from tsjax.model.packing import Packing
from tsjax.model.positions import by_pair

# A window computes as many scores as its size has, whatever its text has, and each size is a loop to compile, a third
# of a second on a CPU. With 48, 160, 224, 288, 320 and 448 in addition, MiniLM embedded texts of 5 to 256 tokens no
# faster, and its first call took a fifth longer.
_SIZES = (
    16,
    32,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
    6144,
    8192,
    12288,
    16384,
)

# Scores at a time: a megabyte of float32, which a core's second-level cache holds.
_SCORES = 2**18


# Places are all of one type, also where Python's numbers are 64 bits wide.
_ZERO = np.int32(0)


class Bias(NamedTuple):
    """The bias that is added to the logits: by the offset of key and query, times a factor of each token and head."""

    by_offset: Float[Array, "N offsets"]
    factor: Float[Array, "*rows T N"]


class _Row(NamedTuple):
    """One row, head by head, so that what a step cuts out is contiguous."""

    query: Float[Array, "N T H"]
    key: Float[Array, "N T H"]
    value: Float[Array, "N T H"]
    starts: Int[Array, " K"]
    lengths: Int[Array, " K"]
    bias: Bias | None
    reach: Int[Array, ""] | None


def windowed_attention(
    query: Float[Array, "R T N H"],
    key: Float[Array, "R T N H"],
    value: Float[Array, "R T N H"],
    packing: Packing,
    *,
    bias: Bias | None = None,
    causal: bool = False,
    reach: Int[Array, ""] | None = None,
    longest: int | None = None,
) -> Float[Array, "R T N H"]:
    """softmax(query·key + bias)·value within each text; zeros for padding.

    Args:
        query: scaled.
        key: what is asked.
        value: what is mixed.
        packing: the texts.
        bias: what is added to the logits; None for nothing.
        causal: whether a token sees only those before it.
        reach: how many tokens to each side are seen; None for all.
        longest: the most tokens that a text can have; None for any number. Windows beyond are not compiled.
    """
    most = min(query.shape[1], longest or query.shape[1])

    def one(row: int | Int[Array, ""]) -> Float[Array, "T N H"]:
        q, k, v = (jnp.swapaxes(x[row], 0, 1) for x in (query, key, value))
        own = None if bias is None else bias._replace(factor=bias.factor[row])
        return _row(_Row(q, k, v, packing.starts[row], packing.lengths[row], own, reach), most, causal=causal)

    rows = query.shape[0]
    return one(0)[None] if rows == 1 else jax.lax.map(one, jnp.arange(rows))


def _row(row: _Row, longest: int, *, causal: bool) -> Float[Array, "T N H"]:
    heads = row.query.shape[0]
    mixed = jnp.zeros_like(row.query)
    sizes = [*(size for size in _SIZES if size < longest), longest]
    for shorter, window in zip([0, *sizes], sizes, strict=False):
        cut = _Cut(window, heads, causal)
        # The texts are sorted by length, so those of each window follow each other.
        first, end = (jnp.sum(row.lengths > length, dtype=jnp.int32) for length in (window, shorter))
        step = functools.partial(_step, row, cut)
        mixed = jax.lax.fori_loop(first * cut.steps, end * cut.steps, step, mixed)
    return jnp.swapaxes(mixed, 0, 1)


@dataclass(frozen=True)
class _Cut:
    """The division of the texts of one window into steps."""

    window: int
    heads: int
    causal: bool

    @functools.cached_property
    def together(self) -> int:
        """Heads at a time: the most, of those that divide their number, whose scores fit the cache."""
        counts = [count for count in range(1, self.heads + 1) if self.heads % count == 0]
        return max(count for count in counts if count == 1 or count * self.window**2 <= _SCORES)

    @functools.cached_property
    def queries(self) -> int:
        """Queries at a time."""
        return min(self.window, max(1, _SCORES // self.window))

    @functools.cached_property
    def blocks(self) -> int:
        """Blocks of queries of a text."""
        return -(-self.window // self.queries)

    @functools.cached_property
    def steps(self) -> int:
        """Steps that a text takes."""
        return self.heads // self.together * self.blocks


def _step(row: _Row, cut: _Cut, index: Int[Array, ""], mixed: Float[Array, "N T H"]) -> Float[Array, "N T H"]:
    """Some queries of some heads of a text, written to their places."""
    text, head, block = index // cut.steps, index // cut.blocks % (cut.heads // cut.together), index % cut.blocks
    head = head * cut.together
    # A window that would reach beyond the row starts earlier; the text then starts inside it.
    start = jnp.minimum(row.starts[text], row.key.shape[1] - cut.window)
    first = jnp.minimum(block * cut.queries, cut.window - cut.queries)
    places = jnp.arange(cut.window, dtype=jnp.int32) - (row.starts[text] - start)
    inside = (places >= 0) & (places < row.lengths[text])
    own = jax.lax.dynamic_slice_in_dim(inside, first, cut.queries)

    def take(x: Float[Array, "N T H"], place: Int[Array, ""], count: int) -> Float[Array, "together count H"]:
        return jax.lax.dynamic_slice(x, (head, place, _ZERO), (cut.together, count, x.shape[2]))

    query = take(row.query, start + first, cut.queries)
    key, value = take(row.key, start, cut.window), take(row.value, start, cut.window)
    logits = jnp.einsum("nth,nsh->nts", query, key, precision=PRECISION, preferred_element_type=jnp.float32)
    if row.bias is not None:
        by_offset = jax.lax.dynamic_slice_in_dim(row.bias.by_offset, head, cut.together, 0)
        factor = jax.lax.dynamic_slice(row.bias.factor, (start + first, head), (cut.queries, cut.together))
        logits = logits + by_pair(by_offset, first, cut.queries, cut.window) * factor.T[:, :, None]
    logits = jnp.where(_seen(row, cut, inside, first), logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    out = jnp.einsum(
        "nts,nsh->nth", weights.astype(value.dtype), value, precision=PRECISION, preferred_element_type=jnp.float32
    )
    # After the product rather than before: there are fewer of them.
    out = (out / weights.sum(axis=-1, keepdims=True)).astype(mixed.dtype)
    out = jnp.where(own[:, None], out, take(mixed, start + first, cut.queries))
    return jax.lax.dynamic_update_slice(mixed, out, (head, start + first, _ZERO))


def _seen(
    row: _Row, cut: _Cut, inside: Bool[Array, " window"], first: Int[Array, ""]
) -> Bool[Array, "#queries window"]:
    """Return a mask of the keys of the window that each query sees."""
    offset = jnp.arange(cut.window)[None, :] - (first + jnp.arange(cut.queries))[:, None]
    seen = inside[None, :]
    if cut.causal:
        seen = seen & (offset <= 0)
    if row.reach is not None:
        seen = seen & (jnp.abs(offset) <= row.reach)
    return seen
