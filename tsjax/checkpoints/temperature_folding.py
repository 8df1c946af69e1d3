"""Folding of a temperature into a model's weights, so that any software that runs the model applies it.

The logits of attention are linear in the queries, so dividing the query projection (and a relative bias) by τ divides
the logits: exact, except for rounding. Rotations are linear too. If queries are normalised after the projection, the
scale of that norm takes τ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tsjax.errors import InputError
from tsjax.model.params import flatten, unflatten
from tsjax.temperature import Temperature

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.model.config import EncoderConfig, ModelConfig
    from tsjax.model.params import Params
    from tsjax.temperature import TemperatureLike


def fold(params: Params, temperature: TemperatureLike, config: ModelConfig) -> Params:
    """Return parameters that give with τ = 1 the output of these parameters with a temperature.

    Args:
        params: nested dict of arrays, as `tsjax.model.forward.apply` takes them; it is not modified.
        temperature: one τ, one per layer, or one per layer and head.
        config: the architecture.

    Returns:
        parameters of the same shapes and dtypes.

    Raises:
        InputError: this architecture's weights cannot express this temperature, it does not fit the architecture, or
            the weights' dtype cannot hold the result of the division.
    """
    return unflatten(fold_weights(flatten(config, params), Temperature.of(temperature), config.encoder))


def fold_weights(weights: Mapping[str, Any], temperature: Temperature, encoder: EncoderConfig) -> dict[str, Any]:
    """Fold a temperature into weights by dotted name, as a checkpoint has them; see `fold`."""
    folded = dict(weights)
    if temperature == Temperature():
        return folded
    if temperature.query is not None:
        raise InputError("queries and documents have temperatures of their own: one set of weights cannot have both")
    if temperature.by_length is not None:
        raise InputError("a temperature that follows the text's length cannot be folded into weights")
    tau = temperature.per_head(encoder.num_layers, encoder.num_heads)
    same_in_all_layers = bool((tau == tau[:1]).all())
    if encoder.alibi and not (tau == 1).all():
        raise InputError("ALiBi's slopes follow from the number of heads: no weights can take a temperature")
    if not same_in_all_layers and (encoder.shared_layers or encoder.relative_buckets is not None):
        raise InputError("layers that share weights or position biases can only have the same temperatures")

    def put(name: str, divided: Any) -> None:
        with np.errstate(over="ignore"):
            folded[name] = divided.astype(weights[name].dtype)
        if _finite(weights[name]) and not _finite(folded[name]):
            raise InputError(f"{weights[name].dtype} cannot hold {name} divided by a temperature of {tau.min():g}")

    def divide(name: str, by: NDArray[np.float32]) -> None:
        put(name, weights[name] / by)

    layers = "encoder.layers.attention"
    if encoder.query_key_norm:
        if not (tau == tau[:, :1]).all():
            raise InputError("heads whose queries are normalised alike can only have the same temperature")
        name, by = f"{layers}.query_norm.scale", tau[0, 0] if encoder.shared_layers else tau[:, :1]
        put(name, (weights[name] + encoder.norm_offset) / by - encoder.norm_offset)
        return folded
    divide(f"{layers}.query.kernel", (tau[0] if encoder.shared_layers else tau[:, None])[..., None])
    if encoder.attention_bias:
        divide(f"{layers}.query.bias", (tau[0] if encoder.shared_layers else tau)[..., None])
    if encoder.relative_buckets is not None:
        divide("encoder.relative_bias.embedding", tau[0])
    return folded


def _finite(weight: Any) -> bool:
    # Checked as float32, since NumPy itself has no bfloat16.
    return bool(np.isfinite(np.asarray(weight, np.float32)).all())
