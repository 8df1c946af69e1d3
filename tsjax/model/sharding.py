"""A model on several devices: each computes its own rows, with all parameters or with a share of each matrix.

Everything runs under one `jax.shard_map` over the rows, so no device waits for another except to gather the matrices
that are shared out. A matrix names its axes (`tsjax.model.weight`), and `RULES` says which of them may be cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

ROWS = "rows"
WHOLE = PartitionSpec()  # type: ignore[no-untyped-call]
BY_ROWS = PartitionSpec(ROWS)  # type: ignore[no-untyped-call]

# The axis of the mesh that may cut each logical axis of a matrix; None: never cut. Of a matrix, the first axis is cut
# that has one and that the devices divide evenly.
RULES = {
    "vocabulary": ROWS,
    "position": ROWS,
    "token_type": None,
    "embedding": ROWS,
    "model": ROWS,
    "heads": ROWS,
    "head_size": None,
    "feed_forward": ROWS,
}


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh of these devices, in a row."""
    return jax.make_mesh((len(devices),), (ROWS,), axis_types=(AxisType.Explicit,), devices=devices)


def place(params: dict[str, Any], mesh: Mesh, parts: dict[str, Any]) -> dict[str, Any]:
    """Put the parameters on the devices, each as its partition says."""
    return jax.tree.map(lambda leaf, part: jax.device_put(leaf, NamedSharding(mesh, part)), params, parts)
