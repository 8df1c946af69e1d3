"""DistilBERT: BERT without token types, with its own weight names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conversion.classifier import two_layers
from conversion.families.family import Family, Spelling, attention, embedding, linear, norm
from conversion.rules import Names

if TYPE_CHECKING:
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    del config  # the same for every config
    layer, ours = "transformer.layer.{i}", "layers.{i}"
    return (
        embedding("embeddings.word_embeddings", "embeddings.token"),
        embedding("embeddings.position_embeddings", "embeddings.position"),
        *norm("embeddings.LayerNorm", "embeddings.norm"),
        *attention(*(f"{layer}.attention.{part}_lin" for part in ("q", "k", "v", "out"))),
        *norm(f"{layer}.sa_layer_norm", f"{ours}.attention_norm"),
        *linear(f"{layer}.ffn.lin1", f"{ours}.feed_forward.up"),
        *linear(f"{layer}.ffn.lin2", f"{ours}.feed_forward.down"),
        *norm(f"{layer}.output_layer_norm", f"{ours}.feed_forward_norm"),
    )


DISTILBERT = Family(
    name="DistilBERT",
    model_type="distilbert",
    model_class="DistilBertModel",
    base_name="distilbert",
    fields={
        "vocab_size": "vocab_size",
        "dim": "hidden_size",
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "hidden_dim": "intermediate_size",
        "max_position_embeddings": "max_positions",
        "activation": "activation",
    },
    aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    constants={"norm_eps": 1e-12},
    defaults={"max_position_embeddings": 512, "activation": "gelu"},
    spellings=(Spelling(_rules, Names(prefixes=("distilbert.",), ignored=("vocab_*", "embeddings.position_ids"))),),
    classifier=two_layers("pre_classifier", "classifier", "relu"),
    # The file stores sinusoidal positions in the same way as learned positions.
    harmless=frozenset(
        "attention_dropout dropout initializer_range pad_token_id qa_dropout seq_classif_dropout sinusoidal_pos_embds "
        "sentence_transformers tie_weights_".split()
    ),
)
