"""ModernBERT: rotary positions, layers that see a window between those that see all, GeGLU, no biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.classifier import Classifier, dense, layer_norm
from conversion.families.family import (
    SIZES,
    TRAINING,
    Family,
    Spelling,
    activation,
    embedding,
    linear,
    norm,
    packed_attention,
    rope,
    rope_parameters,
)
from conversion.rules import Names
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conversion.fields import Fields
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig, PoolingMode

_POOLING: dict[str, PoolingMode] = {"cls": "cls", "mean": "mean"}
_KINDS = ("full_attention", "sliding_attention")


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours, bias = "layers.{i}", "layers.{i}", config.norm_bias
    return (
        embedding("embeddings.tok_embeddings", "embeddings.token"),
        *norm("embeddings.norm", "embeddings.norm", bias=bias),
        *packed_attention(f"{layer}.attn.Wqkv", f"{layer}.attn.Wo", bias=config.attention_bias),
        *norm(f"{layer}.attn_norm", f"{ours}.attention_norm", bias=bias, first_layer=1),
        *linear(f"{layer}.mlp.Wi", f"{ours}.feed_forward.gate", bias=config.up_bias, part=(0, 2)),
        *linear(f"{layer}.mlp.Wi", f"{ours}.feed_forward.up", bias=config.up_bias, part=(1, 2)),
        *linear(f"{layer}.mlp.Wo", f"{ours}.feed_forward.down", bias=config.down_bias),
        *norm(f"{layer}.mlp_norm", f"{ours}.feed_forward_norm", bias=bias),
        *norm("final_norm", "final_norm", bias=bias),
    )


def take_layer_types(fields: Fields, every: int, *, last: bool = False) -> tuple[int, ...]:
    """The layers that see a window: as listed, or all but the first (or the last) of each ``every``."""
    layers = fields.take_count("num_hidden_layers")
    kinds = fields.take("layer_types", None, list)
    if kinds is None:
        kinds = [_KINDS[(i + last) % every != 0] for i in range(layers)]
    if len(kinds) != layers or not set(kinds) <= set(_KINDS):
        raise ConversionError(f"{fields.file}: layer_types must name {layers} kinds of {_KINDS}, not {kinds!r:.80}")
    return tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")


def layer_types(config: EncoderConfig) -> list[str]:
    """The inverse of `take_layer_types`."""
    return [_KINDS[i in config.local_layers] for i in range(config.num_layers)]


def take_two_ropes(fields: Fields, theta: float, local_theta: float) -> dict[str, float]:
    """The rotations of layers that see all and of those that see a window."""
    given = fields.take("rope_parameters", {}, dict)
    both = []
    for kind, default in zip(_KINDS, (theta, local_theta), strict=True):
        parameters = given.get(kind) or {}
        both.append(rope({"rope_theta": default, **parameters}, fields.file))
    everywhere, nearby = both
    if nearby["rope_factor"] != 1 or everywhere["rope_factor"] != 1 or set(given) - set(_KINDS):
        raise ConversionError(f"{fields.file}: rope_parameters = {given!r} are not supported")
    return {"rope_theta": everywhere["rope_theta"], "local_rope_theta": nearby["rope_theta"]}


def write_two_ropes(config: EncoderConfig) -> dict[str, Any]:
    """The inverse of `take_two_ropes`."""
    thetas = (config.rope_theta, config.local_rope_theta)
    return {"rope_parameters": {kind: rope_parameters(theta) for kind, theta in zip(_KINDS, thetas, strict=True)}}


def _read(fields: Fields) -> dict[str, Any]:
    fields.require("rope_scaling")
    local = take_layer_types(fields, fields.take_count("global_attn_every_n_layers", 3))
    theta = fields.take("global_rope_theta", 160_000.0, (int, float))
    local_theta = fields.take("local_rope_theta", 10_000.0, (int, float))
    mlp_bias = fields.take("mlp_bias", default=False, kind=bool)
    return {
        "local_layers": local,
        # Half of it to each side.
        "local_window": fields.take_count("local_attention", 128) // 2 if local else None,
        "up_bias": mlp_bias,
        "down_bias": mlp_bias,
        **take_two_ropes(fields, float(theta), float(local_theta or theta)),
    }


def _write(config: EncoderConfig) -> dict[str, Any]:
    return {
        "layer_types": layer_types(config),
        "local_attention": 2 * (config.local_window or 64),
        "mlp_bias": config.up_bias,
        **write_two_ropes(config),
    }


def _classifier(encoder: EncoderConfig, config: Mapping[str, Any], labels: int) -> Classifier:
    """A layer without bias, its norm, and a layer to the labels, on the first token or on the mean."""
    said = config.get("classifier_pooling") or "cls"
    if said not in _POOLING:
        raise ConversionError(f"classifier_pooling = {said!r} is not supported; known: {', '.join(_POOLING)}")
    width = encoder.hidden_size
    act = activation(config.get("classifier_activation") or "gelu", "config.json")
    steps = (
        dense("head.dense", width, width, act, bias=bool(config.get("classifier_bias"))),
        layer_norm("head.norm", width, encoder.norm_eps, bias=encoder.norm_bias),
        dense("classifier", width, labels),
    )
    return Classifier(_POOLING[said], steps)


MODERNBERT = Family(
    name="ModernBERT",
    model_type="modernbert",
    model_class="ModernBertModel",
    base_name="model",
    fields={
        **SIZES,
        "hidden_activation": "activation",
        "norm_eps": "norm_eps",
        "norm_bias": "norm_bias",
        "attention_bias": "attention_bias",
    },
    defaults={
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
    },
    constants={
        "absolute_positions": False,
        "norm_placement": "pre",
        "first_norm": False,
        "final_norm": True,
        "feed_forward": "gated",
    },
    read=_read,
    write=_write,
    classifier=_classifier,
    spellings=(Spelling(_rules, Names(prefixes=("model.",), ignored=("head.*", "decoder.*"))),),
    # `sparse_prediction` and the decoder belong to pre-training, the classifier to other heads.
    harmless=TRAINING
    | frozenset(
        "classifier_activation classifier_bias classifier_pooling decoder_bias deterministic_flash_attn "
        "initializer_cutoff_factor layer_norm_eps pad_token_id position_embedding_type reference_compile "
        "repad_logits_with_grad sparse_pred_ignore_index sparse_prediction".split()
    ),
)
