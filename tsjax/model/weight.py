"""The parameters of which a model chooses dtype and placement: the matrices of the encoder."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

from tsjax.model.sharding import RULES, WHOLE


class Weight(nnx.Param[Array]):
    """A matrix, table or bias of the encoder: kept in the compute dtype, and shared out among devices on request.

    Every other parameter is a plain `nnx.Param`, which stays float32 and whole on each device.

    Args:
        value: the array.
        axes: the logical names of its axes (see `tsjax.model.sharding.RULES`); none for one that is never cut. Where
            layers are stacked, these are the last axes.
        cut: the axis, counted from the last, of which each device has a share; None where it has it all.
    """

    def __init__(self, value: Array, axes: tuple[str, ...] = (), *, cut: int | None = None) -> None:
        super().__init__(value, axes=axes, cut=cut)

    def get_value(self, **options: Any) -> Any:
        """Return the whole array (an abstract one or NumPy's as it is), gathered if this device has only a share."""
        value = super().get_value(**options)
        if self.cut is None:
            return value
        return jax.lax.all_gather(value, RULES[self.axes[self.cut]], axis=value.ndim + self.cut, tiled=True)

    def share_out(self, devices: int) -> None:
        """Choose the axis that is cut among devices: the first that the rules allow and the devices divide evenly."""
        places = [place - len(self.axes) for place, axis in enumerate(self.axes) if RULES[axis] is not None]
        self.set_metadata(cut=next((place for place in places if self.shape[place] % devices == 0), None))

    @property
    def partition(self) -> PartitionSpec:
        """The placement of the array on the mesh."""
        if self.cut is None:
            return WHOLE
        return PartitionSpec(*[None] * (self.ndim + self.cut), RULES[self.axes[self.cut]])  # type: ignore[no-untyped-call]
