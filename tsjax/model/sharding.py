"""A model on several devices: each computes its own rows, with all parameters or with a share of each.

Everything runs under one `jax.shard_map` over the rows, so no device waits for another but to gather parameters
where they are shared out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array

    from tsjax.model.params import Params

ROWS = "rows"
WHOLE = PartitionSpec()  # type: ignore[no-untyped-call]
BY_ROWS = PartitionSpec(ROWS)  # type: ignore[no-untyped-call]


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """The devices in a row."""
    return Mesh(np.array(devices), (ROWS,), axis_types=(jax.sharding.AxisType.Auto,))


def partitions(shapes: Params, devices: int, *, shared_out: bool) -> Params:
    """How each parameter lies on the devices: whole on all, or its longest axis that can be cut evenly shared out.

    Args:
        shapes: nested dict of whatever has a shape.
        devices: how many.
        shared_out: whether to cut at all.
    """

    def one(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> PartitionSpec:
        stacked = any(key.key == "layers" for key in path)  # a scan runs over the first axis, or it is worth little
        axes = [axis for axis in range(stacked, len(leaf.shape)) if leaf.shape[axis] % devices == 0]
        if not shared_out or not axes:
            return WHOLE
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return PartitionSpec(*(ROWS if axis == longest else None for axis in range(len(leaf.shape))))  # type: ignore[no-untyped-call]

    return jax.tree_util.tree_map_with_path(one, shapes)


def place(params: Params, mesh: Mesh, parts: Params) -> Params:
    """The parameters on the devices."""
    return jax.tree.map(lambda leaf, part: jax.device_put(leaf, NamedSharding(mesh, part)), params, parts)


def whole(leaf: Array, shape: tuple[int, ...]) -> Array:
    """A parameter of which this device may have a share only; a no-op where it has it all."""
    for axis, (own, full) in enumerate(zip(leaf.shape, shape, strict=True)):
        if own != full:
            return jax.lax.all_gather(leaf, ROWS, axis=axis, tiled=True)
    return leaf
