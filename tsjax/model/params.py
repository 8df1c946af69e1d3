"""The parameters of a model as a nested dict of arrays: by dotted name as in a file, and in a compute dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.model.config import ModelConfig

Params: TypeAlias = dict[str, Any]


def flatten(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Nested parameters by dotted name, as a file has them: query, key and value apart."""
    encoder = config.encoder
    heads = {"query": encoder.num_heads, "key": encoder.key_value_heads, "value": encoder.key_value_heads}
    flat = {}
    for name, value in _leaves(params):
        *path, last = name.split(".")
        if path[-1] != _TOGETHER:
            flat[name] = value
            continue
        start = 0
        for part, count in heads.items():
            flat[".".join([*path[:-1], part, last])] = value[..., start : start + count, :]
            start += count
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    params: Params = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = params
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return _together(params)


_TOGETHER = "query_key_value"


def _together(params: Params) -> Params:
    """The parameters of query, key and value, each an array of heads, as one."""
    if "query" not in params:
        return {key: _together(value) if isinstance(value, dict) else value for key, value in params.items()}
    parts = [params[name] for name in ("query", "key", "value")]
    rest = {key: value for key, value in params.items() if key not in {"query", "key", "value"}}
    return rest | {_TOGETHER: {leaf: np.concatenate([part[leaf] for part in parts], axis=-2) for leaf in parts[0]}}


def _leaves(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def cast_params(params: Params, dtype: jnp.dtype[Any]) -> Params:
    """The encoder's matrices in a compute dtype; norms, biases on logits and the heads after pooling stay float32.

    NumPy arrays stay such, since each operation of JAX on its own would be a program to compile.
    """

    def cast(path: tuple[jax.tree_util.DictKey, ...], leaf: Any) -> Any:
        names = [key.key for key in path]
        keep = names[0] == "heads" or any(name.endswith(("norm", "relative_bias")) for name in names)
        return leaf.astype(jnp.float32 if keep else dtype)

    return jax.tree_util.tree_map_with_path(cast, params)
