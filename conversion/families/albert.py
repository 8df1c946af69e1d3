"""ALBERT: one layer's weights, shared by all layers, and narrow embeddings that are projected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conversion.classifier import two_layers
from conversion.families.family import (
    SIZES,
    TRAINING,
    Family,
    Spelling,
    embedding,
    into_heads,
    linear,
    norm,
    out_of_heads,
)
from conversion.rules import Names

if TYPE_CHECKING:
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    return (
        embedding("embeddings.word_embeddings", "embeddings.token"),
        embedding("embeddings.position_embeddings", "embeddings.position"),
        *([embedding("embeddings.token_type_embeddings", "embeddings.token_type")] if config.type_vocab_size else ()),
        *norm("embeddings.LayerNorm", "embeddings.norm"),
        *linear("encoder.embedding_hidden_mapping_in", "embeddings.projection"),
        *(
            rule
            for part in ("query", "key", "value")
            for rule in into_heads(f"{layer}.attention.{part}", f"layers.attention.{part}")
        ),
        *out_of_heads(f"{layer}.attention.dense", "layers.attention.out"),
        *norm(f"{layer}.attention.LayerNorm", "layers.attention_norm"),
        *linear(f"{layer}.ffn", "layers.feed_forward.up"),
        *linear(f"{layer}.ffn_output", "layers.feed_forward.down"),
        *norm(f"{layer}.full_layer_layer_norm", "layers.feed_forward_norm"),
    )


ALBERT = Family(
    name="ALBERT",
    model_type="albert",
    model_class="AlbertModel",
    base_name="albert",
    fields={
        **SIZES,
        "embedding_size": "embedding_size",
        "type_vocab_size": "type_vocab_size",
        "layer_norm_eps": "norm_eps",
        "hidden_act": "activation",
    },
    constants={"shared_layers": True},
    defaults={"embedding_size": 128, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu_new"},
    write=lambda config: {"num_hidden_groups": 1, "inner_group_num": 1},
    spellings=(
        Spelling(
            _rules,
            Names(
                prefixes=("albert.",),
                ignored=("pooler.*", "predictions.*", "sop_classifier.*", "embeddings.*_ids"),
            ),
        ),
    ),
    harmless=TRAINING
    | {"classifier_dropout_prob", "pad_token_id", "down_scale_factor", "gap_size", "net_structure_type"}
    | {"num_memory_blocks"},
    required={"num_hidden_groups": (1,), "inner_group_num": (1,), "position_embedding_type": ("absolute",)},
    pooler="pooler",
    classifier=two_layers("pooler", "classifier", "tanh"),
)
