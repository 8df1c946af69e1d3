"""Jina v2: ALiBi instead of positions and a gated feed-forward layer; its config has the model type "bert"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.families.family import SIZES, TRAINING, Family, Spelling, attention, embedding, linear, norm
from conversion.rules import Names
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from conversion.fields import Fields
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig

_GATES = {"geglu": "gelu", "reglu": "relu"}


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "encoder.layer.{i}", "layers.{i}"
    this = f"{layer}.attention.self"
    return (
        embedding("embeddings.word_embeddings", "embeddings.token"),
        *([embedding("embeddings.token_type_embeddings", "embeddings.token_type")] if config.type_vocab_size else ()),
        *norm("embeddings.LayerNorm", "embeddings.norm"),
        *attention(f"{this}.query", f"{this}.key", f"{this}.value", f"{layer}.attention.output.dense"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}.attention_norm"),
        *linear(f"{layer}.mlp.gated_layers", f"{ours}.feed_forward.gate", bias=False, part=(0, 2)),
        *linear(f"{layer}.mlp.gated_layers", f"{ours}.feed_forward.up", bias=False, part=(1, 2)),
        *linear(f"{layer}.mlp.wo", f"{ours}.feed_forward.down"),
        *norm(f"{layer}.mlp.layernorm", f"{ours}.feed_forward_norm"),
    )


def _gate(fields: Fields) -> dict[str, Any]:
    name = fields.take("feed_forward_type", "original", str)
    if name not in _GATES:
        raise ConversionError(f"{fields.file}: feed_forward_type {name!r} is not supported; known: {', '.join(_GATES)}")
    return {"activation": _GATES[name]}


def _write(config: EncoderConfig) -> dict[str, Any]:
    gate = next(name for name, act in _GATES.items() if act == config.activation)
    return {"feed_forward_type": gate, "position_embedding_type": "alibi", "hidden_act": "gelu"}


JINA_V2 = Family(
    name="Jina v2",
    model_type="bert",
    model_class="JinaBertModel",
    fields={**SIZES, "type_vocab_size": "type_vocab_size", "layer_norm_eps": "norm_eps"},
    defaults={"type_vocab_size": 2, "layer_norm_eps": 1e-12},
    constants={"absolute_positions": False, "alibi": True, "feed_forward": "gated", "up_bias": False},
    read=_gate,
    write=_write,
    spellings=(
        Spelling(
            _rules,
            Names(prefixes=("bert.",), ignored=("pooler.*", "cls.*", "embeddings.position_ids", "encoder.alibi")),
        ),
    ),
    harmless=TRAINING | {"attn_implementation", "auto_map", "hidden_act", "pad_token_id", "sentence_transformers"},
    required={"emb_pooler": ("mean",), "position_embedding_type": ("alibi",)},
    matches=lambda config: config.get("position_embedding_type") == "alibi",
    exportable=False,
)
