"""Placement of a model's parameters on devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import jax
from jax.sharding import NamedSharding

from tsjax.model.params import partitions
from tsjax.model.sharding import BY_ROWS, mesh_of, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jax.sharding import Mesh

    from tsjax.model.config import ModelConfig
    from tsjax.model.params import Params

Arrays = TypeVar("Arrays")


@dataclass(frozen=True)
class Placement:
    """Parameters on one device, copied to each of several, or sharded over them.

    Attributes:
        params: nested dict of arrays; empty after the parameters are released.
        devices: devices to compute on, all of one kind.
        mesh: the devices as a mesh; None for one device.
        sharded: whether each device holds only a shard of the parameters.
    """

    params: Params
    devices: tuple[jax.Device, ...]
    mesh: Mesh | None
    sharded: bool

    @classmethod
    def of(
        cls, config: ModelConfig, params: Params, devices: Sequence[jax.Device], *, shard_parameters: bool
    ) -> Placement:
        """Copy the parameters to the devices."""
        if len(devices) == 1:
            return cls(jax.device_put(params, devices[0]), tuple(devices), None, sharded=False)
        mesh = mesh_of(devices)
        parts = partitions(config, len(devices), shared_out=shard_parameters)
        return cls(place(params, mesh, parts), tuple(devices), mesh, sharded=shard_parameters)

    def released(self) -> Placement:
        """Return this placement without the parameters."""
        return replace(self, params={})

    def by_rows(self, arrays: Arrays) -> Arrays:
        """Spread the rows of arrays over the devices; with one device, return the arrays unchanged."""
        return arrays if self.mesh is None else jax.device_put(arrays, NamedSharding(self.mesh, BY_ROWS))

    @property
    def program_key(self) -> dict[str, Any]:
        """Return the arguments of `tsjax.model.forward.compiled_apply` that depend on the devices."""
        return {
            "mesh": self.mesh,
            "shared_out": self.sharded,
            "device": self.devices[0] if self.mesh is None else None,
        }

    def bytes_per_device(self) -> dict[str, int]:
        """Return the bytes of the parameters on each device, by the device's name."""
        held = dict.fromkeys(map(str, self.devices), 0)
        for leaf in jax.tree.leaves(self.params):
            for shard in leaf.addressable_shards:
                held[str(shard.device)] += shard.data.nbytes
        return held
