"""The two kinds of layers of ModernBERT and Gemma: layers with global attention, and layers with a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.families.family import rope, rope_parameters
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from conversion.fields import Fields
    from tsjax.model.config import EncoderConfig

_KINDS = ("full_attention", "sliding_attention")


def take_layer_types(fields: Fields, every: int, *, last: bool = False) -> tuple[int, ...]:
    """Return the layers with a window: as listed, or all but the first (or the last) of each ``every``."""
    layers = fields.take_count("num_hidden_layers")
    kinds = fields.take("layer_types", None, list)
    if kinds is None:
        kinds = [_KINDS[(i + last) % every != 0] for i in range(layers)]
    if len(kinds) != layers or not all(kind in _KINDS for kind in kinds):
        raise ConversionError(f"{fields.file}: layer_types must name {layers} kinds of {_KINDS}, not {kinds!r:.80}")
    return tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")


def layer_types(config: EncoderConfig) -> list[str]:
    """Return the list of layer types: the inverse of `take_layer_types`."""
    return [_KINDS[i in config.local_layers] for i in range(config.num_layers)]


def take_two_ropes(fields: Fields, theta: float, local_theta: float) -> dict[str, float]:
    """Return the rotations of the layers with global attention and of the layers with a window."""
    given = fields.take("rope_parameters", {}, dict)
    both = []
    for kind, default in zip(_KINDS, (theta, local_theta), strict=True):
        parameters = given.get(kind) or {}
        if not isinstance(parameters, dict):
            raise ConversionError(f"{fields.file}: rope_parameters = {given!r:.80} are not supported")
        both.append(rope({"rope_theta": default, **parameters}, fields.file))
    everywhere, nearby = both
    if nearby["rope_factor"] != 1 or everywhere["rope_factor"] != 1 or set(given) - set(_KINDS):
        raise ConversionError(f"{fields.file}: rope_parameters = {given!r} are not supported")
    return {"rope_theta": everywhere["rope_theta"], "local_rope_theta": nearby["rope_theta"]}


def write_two_ropes(config: EncoderConfig) -> dict[str, Any]:
    """Return the fields of config.json for both rotations: the inverse of `take_two_ropes`."""
    thetas = (config.rope_theta, config.local_rope_theta)
    return {"rope_parameters": {kind: rope_parameters(theta) for kind, theta in zip(_KINDS, thetas, strict=True)}}
