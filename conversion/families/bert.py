"""BERT: MiniLM, BGE, GIST, E5, GTE v1, Arctic, mxbai and the many others that say ``"model_type": "bert"``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conversion.families.family import ACTIVATIONS, MOST_LAYERS, Family
from conversion.rules import Names, Rule
from tsjax.errors import ConversionError
from tsjax.model.config import EncoderConfig

if TYPE_CHECKING:
    from conversion.fields import Fields


def _encoder(fields: Fields) -> EncoderConfig:
    activation = fields.take("hidden_act", "gelu", str)
    if activation not in ACTIVATIONS:
        raise ConversionError(
            f"{fields.file}: activation {activation!r} is not supported; known: {', '.join(ACTIVATIONS)}"
        )
    return EncoderConfig(
        vocab_size=fields.take_count("vocab_size"),
        hidden_size=fields.take_count("hidden_size"),
        num_layers=fields.take_count("num_hidden_layers", most=MOST_LAYERS),
        num_heads=fields.take_count("num_attention_heads"),
        intermediate_size=fields.take_count("intermediate_size"),
        max_positions=fields.take_count("max_position_embeddings"),
        type_vocab_size=fields.take("type_vocab_size", 2, int),
        norm_eps=float(fields.take("layer_norm_eps", 1e-12, (int, float))),
        activation=ACTIVATIONS[activation],  # type: ignore[arg-type]  # its values are our names
    )


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "encoder.layer.{i}", "layers.{i}"
    token_type = (Rule("embeddings.token_type_embeddings.weight", "embeddings.token_type.embedding"),)
    return (
        Rule("embeddings.word_embeddings.weight", "embeddings.token.embedding"),
        Rule("embeddings.position_embeddings.weight", "embeddings.position.embedding"),
        *(token_type if config.type_vocab_size else ()),
        Rule("embeddings.LayerNorm.weight", "embeddings.norm.scale"),
        Rule("embeddings.LayerNorm.bias", "embeddings.norm.bias"),
        Rule(f"{layer}.attention.self.query.weight", f"{ours}.attention.query.kernel", "(n h) d -> d n h"),
        Rule(f"{layer}.attention.self.query.bias", f"{ours}.attention.query.bias", "(n h) -> n h"),
        Rule(f"{layer}.attention.self.key.weight", f"{ours}.attention.key.kernel", "(n h) d -> d n h"),
        Rule(f"{layer}.attention.self.key.bias", f"{ours}.attention.key.bias", "(n h) -> n h"),
        Rule(f"{layer}.attention.self.value.weight", f"{ours}.attention.value.kernel", "(n h) d -> d n h"),
        Rule(f"{layer}.attention.self.value.bias", f"{ours}.attention.value.bias", "(n h) -> n h"),
        Rule(f"{layer}.attention.output.dense.weight", f"{ours}.attention.out.kernel", "d (n h) -> n h d"),
        Rule(f"{layer}.attention.output.dense.bias", f"{ours}.attention.out.bias"),
        Rule(f"{layer}.attention.output.LayerNorm.weight", f"{ours}.attention_norm.scale"),
        Rule(f"{layer}.attention.output.LayerNorm.bias", f"{ours}.attention_norm.bias"),
        Rule(f"{layer}.intermediate.dense.weight", f"{ours}.feed_forward.up.kernel", "f d -> d f"),
        Rule(f"{layer}.intermediate.dense.bias", f"{ours}.feed_forward.up.bias"),
        Rule(f"{layer}.output.dense.weight", f"{ours}.feed_forward.down.kernel", "d f -> f d"),
        Rule(f"{layer}.output.dense.bias", f"{ours}.feed_forward.down.bias"),
        Rule(f"{layer}.output.LayerNorm.weight", f"{ours}.feed_forward_norm.scale"),
        Rule(f"{layer}.output.LayerNorm.bias", f"{ours}.feed_forward_norm.bias"),
    )


BERT = Family(
    model_type="bert",
    encoder=_encoder,
    rules=_rules,
    names=Names(
        prefixes=("bert.",),
        renames=((".gamma", ".weight"), (".beta", ".bias")),
        # The pooler, the heads of pre-training, and buffers that count 0, 1, 2, …
        ignored=("pooler.*", "cls.*", "embeddings.position_ids", "embeddings.token_type_ids"),
    ),
    # The padding's id (masked; the converter reads it), training, the pooler, and what some published checkpoints carry
    # beside (rubert-tiny2, TinyBERT, deepset's). Computing the feed-forward layer in chunks gives the same numbers.
    harmless=frozenset(
        """
        attention_probs_dropout_prob chunk_size_feed_forward classifier_dropout directionality hidden_dropout_prob
        initializer_range pad_token_id pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type sbert_ce_default_activation_function sentence_transformers

        cell emb_size eos_token_ids name pre_trained structure training
        """.split()
    ),
    required={"position_embedding_type": ("absolute",)},
)
