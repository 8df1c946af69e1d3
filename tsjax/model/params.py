"""The parameters of a model as a nested dict of arrays: what a config asks for, names in a file, dtype, placement."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from tsjax.model.config import ModelConfig
from tsjax.model.network import EmbeddingModel, declare
from tsjax.model.sharding import WHOLE
from tsjax.model.weight import Weight

Params: TypeAlias = dict[str, Any]


def init_params(config: ModelConfig, seed: int = 0) -> Params:
    """Return random parameters, float32."""
    return nnx.to_pure_dict(nnx.state(EmbeddingModel(config, rngs=nnx.Rngs(seed))))


def abstract_params(config: ModelConfig) -> Params:
    """Return the parameters that a config asks for, as `jax.ShapeDtypeStruct`s, without allocating any."""
    return _declared(lambda parameter: parameter.get_value(), config)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by dotted name, in the names' order."""
    flat = jax.eval_shape(functools.partial(flatten, config), abstract_params(config))
    return {name: flat[name].shape for name in sorted(flat, key=lambda name: name.split("."))}


def cast_params(config: ModelConfig, params: Params, dtype: jnp.dtype[Any]) -> Params:
    """Return the parameters with each `Weight` in a compute dtype, and all others in float32.

    NumPy arrays stay such, since each operation of JAX on its own would be a program to compile.
    """

    def cast(parameter: nnx.Param[Any], leaf: Any) -> Any:
        return leaf.astype(dtype if isinstance(parameter, Weight) else jnp.float32)

    return _declared(cast, config, params)


def partitions(config: ModelConfig, devices: int, *, shared_out: bool) -> Params:
    """Return how each parameter lies on the devices.

    Args:
        config: the architecture.
        devices: how many.
        shared_out: whether each has a share only of those that `tsjax.model.sharding.RULES` cut.
    """

    def partition(parameter: nnx.Param[Any]) -> jax.sharding.PartitionSpec:
        return parameter.partition if isinstance(parameter, Weight) else WHOLE

    return _declared(partition, config, devices=devices if shared_out else 1)


def _declared(function: Callable[..., Any], config: ModelConfig, *trees: Params, devices: int = 1) -> Params:
    """Map over the declared parameters, and over the leaves of other trees with them."""
    declared = declare(config, devices)[1]
    mapped: Params = jax.tree.map(function, declared, *trees, is_leaf=lambda node: isinstance(node, nnx.Param))
    return mapped


# The network computes all three in one product; a file has them apart.
_TOGETHER = ".query_key_value."
_APART = (".query.", ".key.", ".value.")


def flatten(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested parameters by dotted name, as a file has them: query, key and value apart."""
    encoder = config.encoder
    ends = [encoder.num_heads, encoder.num_heads + encoder.key_value_heads, None]
    flat: dict[str, Any] = flatten_dict(params, sep=".")  # type: ignore[no-untyped-call]
    for name in [name for name in flat if _TOGETHER in name]:
        value = flat.pop(name)
        for part, start, end in zip(_APART, [0, *ends], ends, strict=False):
            flat[name.replace(_TOGETHER, part)] = value[..., start:end, :]
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Return the inverse of `flatten`."""
    flat = dict(flat)
    query = _APART[0]
    for name in [name for name in flat if query in name]:
        parts = [flat.pop(name.replace(query, part)) for part in _APART]
        flat[name.replace(query, _TOGETHER)] = np.concatenate(parts, axis=-2)
    params: Params = unflatten_dict(flat, sep=".")  # type: ignore[no-untyped-call]
    return params
