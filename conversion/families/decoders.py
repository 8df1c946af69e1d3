"""Decoder blocks used as encoders: EuroBERT, Qwen3-Embedding, EmbeddingGemma."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.families.family import (
    SIZES,
    TRAINING,
    Family,
    Spelling,
    attention,
    embedding,
    linear,
    norm,
    take_rope,
    write_rope,
)
from conversion.families.layer_types import layer_types, take_layer_types, take_two_ropes, write_two_ropes
from conversion.rules import Names
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from conversion.fields import Fields
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "layers.{i}", "layers.{i}"
    sandwich = config.norm_placement == "sandwich"
    before = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
    after = (
        *norm(f"{layer}.post_attention_layernorm", f"{ours}.attention_post_norm", bias=False),
        *norm(f"{layer}.post_feedforward_layernorm", f"{ours}.feed_forward_post_norm", bias=False),
    )
    of_heads = (
        *norm(f"{layer}.self_attn.q_norm", f"{ours}.attention.query_norm", bias=False),
        *norm(f"{layer}.self_attn.k_norm", f"{ours}.attention.key_norm", bias=False),
    )
    this, mlp = f"{layer}.self_attn", f"{ours}.feed_forward"
    return (
        embedding("embed_tokens", "embeddings.token"),
        *attention(*(f"{this}.{part}_proj" for part in "qkvo"), bias=config.attention_bias, groups=True),
        *(of_heads if config.query_key_norm else ()),
        *norm(f"{layer}.input_layernorm", f"{ours}.attention_norm", bias=False),
        *linear(f"{layer}.mlp.gate_proj", f"{mlp}.gate", bias=config.up_bias),
        *linear(f"{layer}.mlp.up_proj", f"{mlp}.up", bias=config.up_bias),
        *linear(f"{layer}.mlp.down_proj", f"{mlp}.down", bias=config.down_bias),
        *norm(f"{layer}.{before}", f"{ours}.feed_forward_norm", bias=False),
        *(after if sandwich else ()),
        *norm("norm", "final_norm", bias=False),
    )


_FIELDS = {**SIZES, "num_key_value_heads": "num_key_value_heads", "rms_norm_eps": "norm_eps"}
_CONSTANTS = {
    "absolute_positions": False,
    "norm": "rms_norm",
    "norm_placement": "pre",
    "embedding_norm": False,
    "final_norm": True,
    "feed_forward": "gated",
    "up_bias": False,
    "down_bias": False,
}
_SPELLINGS = (Spelling(_rules, Names(prefixes=("model.", "transformer."), ignored=("lm_head.*", "*inv_freq"))),)


def _eurobert(fields: Fields) -> dict[str, Any]:
    bias = fields.take("mlp_bias", default=False, kind=bool)
    return {"up_bias": bias, "down_bias": bias, **take_rope(fields, 10_000.0)}


EUROBERT = Family(
    name="EuroBERT",
    model_type="eurobert",
    model_class="EuroBertModel",
    fields={**_FIELDS, "hidden_act": "activation", "attention_bias": "attention_bias", "head_dim": "head_size"},
    defaults={
        "num_key_value_heads": None,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "head_dim": None,
    },
    constants=_CONSTANTS,
    read=_eurobert,
    write=lambda config: {"mlp_bias": config.up_bias, **write_rope(config)},
    spellings=_SPELLINGS,
    # The published config also names its special tokens.
    harmless=TRAINING
    | {"auto_map", "classifier_pooling", "clf_pooling", "mask_token_id", "pad_token_id"}
    | {"bos_token", "eos_token", "hidden_dropout", "mask_token", "pad_token"},
    required={"pretraining_tp": (1,)},
)


def _qwen3(fields: Fields) -> dict[str, Any]:
    fields.require("layer_types", ["full_attention"] * fields.take_count("num_hidden_layers"))
    return take_rope(fields, 10_000.0)


QWEN3 = Family(
    name="Qwen3-Embedding",
    model_type="qwen3",
    model_class="Qwen3Model",
    fields={**_FIELDS, "hidden_act": "activation", "attention_bias": "attention_bias", "head_dim": "head_size"},
    defaults={
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "head_dim": 128,
    },
    constants={**_CONSTANTS, "query_key_norm": True, "causal": True},
    read=_qwen3,
    write=write_rope,
    spellings=_SPELLINGS,
    # Without `use_sliding_window` the window has no effect.
    harmless=TRAINING | {"max_window_layers", "pad_token_id", "sliding_window"},
    required={"use_sliding_window": (False,)},
)


def _gemma(fields: Fields) -> dict[str, Any]:
    # The default is false: the blocks of a causal language model, which gives other vectors.
    if not fields.take("use_bidirectional_attention", default=False, kind=bool):
        raise ConversionError(
            f"{fields.file}: use_bidirectional_attention is not true: this is a language model, not an encoder"
        )
    theta = float(fields.take("rope_theta", 1e6, (int, float)))
    local_theta = float(fields.take("rope_local_base_freq", 1e4, (int, float)))
    fields.require("rope_scaling")
    # transformers writes the name with an underscore next to layer_types, and does not read it.
    local = take_layer_types(fields, fields.take_count("sliding_window_pattern", 6), last=True)
    scale = fields.take("query_pre_attn_scalar", 256, (int, float))
    if scale <= 0 or scale != round(scale):
        raise ConversionError(f"{fields.file}: query_pre_attn_scalar = {scale!r} is not a whole number above 0")
    width = fields.take_count("hidden_size")
    return {
        "local_layers": local,
        # A bidirectional model has half of the window on each side.
        "local_window": fields.take_count("sliding_window", 4096) // 2 if local else None,
        "attention_scale": float(scale) ** -0.5,
        "embedding_scale": float(width) ** 0.5,
        **take_two_ropes(fields, theta, local_theta),
    }


def _write_gemma(config: EncoderConfig) -> dict[str, Any]:
    assert config.attention_scale is not None  # set in every config that was read
    return {
        "layer_types": layer_types(config),
        "sliding_window": 2 * (config.local_window or 256),
        "query_pre_attn_scalar": round(config.attention_scale**-2),
        "use_bidirectional_attention": True,
        **write_two_ropes(config),
    }


GEMMA = Family(
    name="EmbeddingGemma",
    model_type="gemma3_text",
    model_class="Gemma3TextModel",
    fields={
        **_FIELDS,
        "hidden_activation": "activation",
        "attention_bias": "attention_bias",
        "head_dim": "head_size",
    },
    defaults={
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "head_dim": 256,
    },
    constants={**_CONSTANTS, "query_key_norm": True, "norm_placement": "sandwich", "norm_offset": 1.0},
    read=_gemma,
    write=_write_gemma,
    spellings=_SPELLINGS,
    harmless=TRAINING | {"_sliding_window_pattern", "pad_token_id"},
    required={"attn_logit_softcapping": (), "final_logit_softcapping": ()},
)
