"""ModernBERT: rotary positions, layers with a window between layers with global attention, GeGLU, no biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
)
from conversion.families.layer_types import layer_types, take_layer_types, take_two_ropes, write_two_ropes
from conversion.heads import Classifier, dense, layer_norm
from conversion.rules import Names
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from conversion.fields import Fields
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig, PoolingMode

_POOLING: dict[str, PoolingMode] = {"cls": "cls", "mean": "mean"}


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


def _read(fields: Fields) -> dict[str, Any]:
    fields.require("rope_scaling")
    # null meant the base of the other layers in transformers 4, and is an error in version 5.
    fields.forbid_null("global_rope_theta", "local_rope_theta")
    local = take_layer_types(fields, fields.take_count("global_attn_every_n_layers", 3))
    theta = fields.take("global_rope_theta", 160_000.0, (int, float))
    local_theta = fields.take("local_rope_theta", 10_000.0, (int, float))
    mlp_bias = fields.take("mlp_bias", default=False, kind=bool)
    # Half of the window is on each side. As in transformers, the other name, which gives this half, wins if both are
    # given.
    window = fields.take_count("sliding_window", fields.take_count("local_attention", 128) // 2)
    return {
        "local_layers": local,
        "local_window": window if local else None,
        "up_bias": mlp_bias,
        "down_bias": mlp_bias,
        **take_two_ropes(fields, float(theta), float(local_theta)),
    }


def _write(config: EncoderConfig) -> dict[str, Any]:
    return {
        "layer_types": layer_types(config),
        "local_attention": 2 * (config.local_window or 64),
        "mlp_bias": config.up_bias,
        **write_two_ropes(config),
    }


def _classifier(encoder: EncoderConfig, fields: Fields, labels: int) -> Classifier:
    """Return a head on the first token or the mean: a layer, usually without bias, its norm, a layer to the labels."""
    said = fields.take("classifier_pooling", "cls", str)
    if said not in _POOLING:
        raise ConversionError(f"{fields.file}: classifier_pooling = {said!r} is not supported; known: cls, mean")
    act = fields.take("classifier_activation", "gelu", str)
    bias = fields.take("classifier_bias", default=False, kind=bool)
    width = encoder.hidden_size
    steps = (
        dense("head.dense", width, width, activation(act, fields.file), bias=bias),
        layer_norm("head.norm", width, encoder.norm_eps, bias=encoder.norm_bias),
        dense("classifier", width, labels),
    )
    config = {"classifier_pooling": said, "classifier_activation": act, "classifier_bias": bias}
    return Classifier(_POOLING[said], steps, config)


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
