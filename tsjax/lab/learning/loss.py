"""Contrastive loss: a query should be nearer to its own text than to the other texts of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tsjax.model.linear import PRECISION


def contrastive(
    queries: Float[Array, "B E"],
    documents: Float[Array, "M E"],
    excluded: Bool[Array, "B M"],
    scale: float,
    dimensions: Sequence[int] = (),
    *,
    cosine: bool = True,
) -> Float[Array, ""]:
    """Return the InfoNCE loss with in-batch negatives, over all dimensions and over leading ones.

    Sources: arXiv:1807.03748, arXiv:1705.00652.

    Args:
        queries: vectors of the queries.
        documents: vectors of the texts; the first B are the queries' own, hard negatives may follow.
        excluded: mask of the texts that are not negatives of a query: its other answers, and copies of its own.
        scale: the factor that similarities are multiplied by.
        dimensions: leading dimensions whose losses are added with equal weight (Matryoshka, arXiv:2205.13147).
        cosine: whether vectors are compared by their cosine, else by their product.

    Returns:
        the mean over the queries, and over all and the leading dimensions.
    """
    own = jnp.arange(queries.shape[0])
    losses = []
    for dimension in (queries.shape[1], *dimensions):
        some = queries[:, :dimension], documents[:, :dimension]
        x, y = map(_unit, some) if cosine else some
        logits = jnp.where(excluded, -jnp.inf, scale * jnp.matmul(x, y.T, precision=PRECISION))
        losses.append(jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[own, own]))
    return jnp.mean(jnp.stack(losses))


def _unit(x: Float[Array, "n E"]) -> Float[Array, "n E"]:
    # The maximum is inside the root, so that a zero vector does not make the gradient NaN.
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=1, keepdims=True), 1e-24))
