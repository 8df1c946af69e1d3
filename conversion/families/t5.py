"""The encoder of T5, of T5 v1.1 with its gate, and of mT5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.families.family import Family, Spelling, activation, attention, embedding, linear, norm
from conversion.rules import Names, Rule
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from conversion.fields import Fields
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    block, ours = "encoder.block.{i}", "layers.{i}"
    dense = f"{block}.layer.1.DenseReluDense"
    up = {"plain": ("wi",), "gated": ("wi_0", "wi_1")}[config.feed_forward]
    return (
        embedding("shared", "embeddings.token"),
        # The first layer holds the table that all layers use.
        Rule("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative_bias.embedding"),
        *attention(*(f"{block}.layer.0.SelfAttention.{part}" for part in "qkvo"), bias=False),
        *norm(f"{block}.layer.0.layer_norm", f"{ours}.attention_norm", bias=False),
        *(linear(f"{dense}.wi_0", f"{ours}.feed_forward.gate", bias=False) if len(up) == 2 else ()),
        *linear(f"{dense}.{up[-1]}", f"{ours}.feed_forward.up", bias=False),
        *linear(f"{dense}.wo", f"{ours}.feed_forward.down", bias=False),
        *norm(f"{block}.layer.1.layer_norm", f"{ours}.feed_forward_norm", bias=False),
        *norm("encoder.final_layer_norm", "final_norm", bias=False),
    )


def _feed_forward(fields: Fields, default: str) -> dict[str, Any]:
    """Read ``feed_forward_proj``: an activation, optionally after "gated-"; the two other fields repeat it."""
    said = fields.take("feed_forward_proj", default, str)
    gated, name = said.startswith("gated-"), said.removeprefix("gated-")
    name = "gelu_new" if said == "gated-gelu" else name
    fields.require("is_gated_act", gated)
    if fields.take("dense_act_fn", name, str) != name:
        raise ConversionError(f"{fields.file}: dense_act_fn contradicts feed_forward_proj = {said!r}")
    return {"feed_forward": "gated" if gated else "plain", "activation": activation(name, fields.file)}


def _write(config: EncoderConfig) -> dict[str, Any]:
    gated = config.feed_forward == "gated"
    # "gated-gelu" means the tanh form, and there is no name for a gate with the exact form.
    names = {"gelu_tanh": "gelu" if gated else "gelu_new", "gelu": "gelu_python" if gated else "gelu"}
    name = names.get(config.activation, config.activation)
    return {"feed_forward_proj": f"gated-{name}" if gated else name, "is_encoder_decoder": False}


def _t5(name: str, model_type: str, model_class: str, default_projection: str) -> Family:
    return Family(
        name=name,
        model_type=model_type,
        model_class=model_class,
        fields={
            "vocab_size": "vocab_size",
            "d_model": "hidden_size",
            "d_kv": "head_size",
            "d_ff": "intermediate_size",
            "num_layers": "num_layers",
            "num_heads": "num_heads",
            "relative_attention_num_buckets": "relative_buckets",
            "relative_attention_max_distance": "relative_max_distance",
            "layer_norm_epsilon": "norm_eps",
        },
        aliases={
            "hidden_size": "d_model",
            "num_attention_heads": "num_heads",
            "num_hidden_layers": "num_layers",
            "head_dim": "d_kv",
        },
        defaults={
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
        },
        constants={
            "max_positions": None,
            "absolute_positions": False,
            "attention_scale": 1.0,
            "attention_bias": False,
            "norm": "rms_norm",
            "norm_placement": "pre",
            "embedding_norm": False,
            "final_norm": True,
            "up_bias": False,
            "down_bias": False,
        },
        read=lambda fields: _feed_forward(fields, default_projection),
        write=_write,
        spellings=(
            Spelling(
                _rules,
                Names(
                    prefixes=("transformer.",),
                    ignored=("decoder.*", "lm_head.*", "qa_outputs.*"),
                    copies={"encoder.embed_tokens.weight": "shared.weight"},
                ),
            ),
        ),
        # The decoder is not used; n_positions is the length in training, not the maximum.
        harmless=frozenset(
            "classifier_dropout decoder_layers dropout_rate initializer_factor n_positions num_decoder_layers "
            "pad_token_id scale_decoder_outputs output_past gradient_checkpointing max_new_tokens "
            "is_encoder_decoder".split()
        ),
    )


T5 = _t5("T5 encoder", "t5", "T5EncoderModel", "relu")
MT5 = _t5("mT5 encoder", "mt5", "MT5EncoderModel", "gated-gelu")
