"""The places of the texts of a batch: a row of tokens may hold several, one after the other.

Everything that looks beyond a single token (positions, attention, pooling) asks a `Packing`; the rest of the network
does not know that there are texts. A batch of padded texts is the packing with one text a row.

Shapes: R rows, T tokens of a row, K places for texts in a row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Packing(NamedTuple):
    """The texts of a batch. Those of a row follow each other without gaps, the longest first.

    The leaves are int32 arrays of NumPy where a batch is planned, and of JAX inside a program.

    Attributes:
        segments: which of its row's texts a token belongs to; K for padding.
        positions: the token's place in its text, from 0; 0 for padding.
        starts: the place of each text's first token in its row; anything for a place without a text.
        lengths: the tokens of each text; 0 for a place without a text.
    """

    segments: Int[Array, "R T"]
    positions: Int[Array, "R T"]
    starts: Int[Array, "R K"]
    lengths: Int[Array, "R K"]

    @property
    def slots(self) -> int:
        """K."""
        return self.lengths.shape[1]


def one_a_row(lengths: Int[Array, " R"], tokens: int) -> Packing:
    """The packing of texts that are padded to T tokens, each in a row of its own."""
    places = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32)[None, :], (lengths.shape[0], tokens))
    inside = places < lengths[:, None]
    return Packing(
        segments=jnp.where(inside, 0, 1),
        positions=jnp.where(inside, places, 0),
        starts=jnp.zeros_like(lengths)[:, None],
        lengths=lengths[:, None],
    )


def by_token(
    values: Float[Array, "#R #K *rest"] | Int[Array, "#R #K *rest"], packing: Packing
) -> Float[Array, "#R #T *rest"] | Int[Array, "#R #T *rest"]:
    """For each token the value of its text; of any text for padding."""
    if values.shape[1] == 1:
        return values
    rest = values.ndim - 2
    index = jnp.minimum(packing.segments, packing.slots - 1).reshape(*packing.segments.shape, *(1,) * rest)
    return jnp.take_along_axis(values, index, axis=1)
