"""MPNet: RoBERTa's positions, and a relative position bias that all layers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conversion.classifier import two_layers
from conversion.families.family import SIZES, TRAINING, Family, Spelling, attention, embedding, linear, norm
from conversion.rules import Names, Rule

if TYPE_CHECKING:
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    del config  # the same for every config
    layer, ours = "encoder.layer.{i}", "layers.{i}"
    return (
        embedding("embeddings.word_embeddings", "embeddings.token"),
        embedding("embeddings.position_embeddings", "embeddings.position"),
        *norm("embeddings.LayerNorm", "embeddings.norm"),
        Rule("encoder.relative_attention_bias.weight", "relative_bias.embedding"),
        *attention(*(f"{layer}.attention.attn.{part}" for part in "qkvo")),
        *norm(f"{layer}.attention.LayerNorm", f"{ours}.attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{ours}.feed_forward.up"),
        *linear(f"{layer}.output.dense", f"{ours}.feed_forward.down"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}.feed_forward_norm"),
    )


MPNET = Family(
    name="MPNet",
    model_type="mpnet",
    model_class="MPNetModel",
    base_name="mpnet",
    fields={
        **SIZES,
        "layer_norm_eps": "norm_eps",
        "hidden_act": "activation",
        "relative_attention_num_buckets": "relative_buckets",
    },
    defaults={
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "relative_attention_num_buckets": 32,
    },
    # Both are constants in transformers' class, regardless of the config.
    constants={"relative_max_distance": 128, "position_padding_id": 1},
    spellings=(
        Spelling(_rules, Names(prefixes=("mpnet.",), ignored=("pooler.*", "lm_head.*", "embeddings.position_ids"))),
    ),
    # transformers computes 32 buckets regardless of the config.
    required={"relative_attention_num_buckets": (32,)},
    harmless=TRAINING | {"pad_token_id"},
    pooler="pooler.dense",
    classifier=two_layers("classifier.dense", "classifier.out_proj", "tanh"),
)
