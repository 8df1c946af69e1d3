"""BERT and the families with its layers: RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.classifier import two_layers
from conversion.families.family import (
    SIZES,
    TRAINING,
    Family,
    Spelling,
    attention,
    embedding,
    linear,
    norm,
)
from conversion.rules import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conversion.fields import Fields
    from conversion.rules import Rule
    from tsjax.model.config import EncoderConfig


def _rules(config: EncoderConfig) -> tuple[Rule, ...]:
    layer, ours = "encoder.layer.{i}", "layers.{i}"
    this = f"{layer}.attention.self"
    projected = config.embedding_size is not None
    return (
        embedding("embeddings.word_embeddings", "embeddings.token"),
        embedding("embeddings.position_embeddings", "embeddings.position"),
        *([embedding("embeddings.token_type_embeddings", "embeddings.token_type")] if config.type_vocab_size else ()),
        *norm("embeddings.LayerNorm", "embeddings.norm"),
        *(linear("embeddings_project", "embeddings.projection") if projected else ()),
        *attention(f"{this}.query", f"{this}.key", f"{this}.value", f"{layer}.attention.output.dense"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}.attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{ours}.feed_forward.up"),
        *linear(f"{layer}.output.dense", f"{ours}.feed_forward.down"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}.feed_forward_norm"),
    )


def _names(*prefixes: str, ignored: tuple[str, ...]) -> Names:
    return Names(
        prefixes=prefixes,
        renames=((".gamma", ".weight"), (".beta", ".bias")),
        # The pooler, and position buffers: 0, 1, 2, …
        ignored=("pooler.*", "embeddings.position_ids", "embeddings.token_type_ids", *ignored),
    )


_FIELDS = {**SIZES, "type_vocab_size": "type_vocab_size", "layer_norm_eps": "norm_eps", "hidden_act": "activation"}
_HARMLESS = TRAINING | {"pooler_type", "sbert_ce_default_activation_function", "sentence_transformers"}

BERT = Family(
    name="BERT",
    model_type="bert",
    model_class="BertModel",
    base_name="bert",
    fields=_FIELDS,
    defaults={"type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    spellings=(Spelling(_rules, _names("bert.", ignored=("cls.*",))),),
    # The padding's id (masked; the converter reads it), the pooler, and additional fields of some published checkpoints
    # (rubert-tiny2, TinyBERT, deepset's). Computing the feed-forward layer in chunks gives the same numbers.
    harmless=_HARMLESS
    | frozenset(
        """
        directionality pad_token_id pooler_fc_size pooler_num_attention_heads
        pooler_num_fc_layers pooler_size_per_head

        cell emb_size eos_token_ids name pre_trained structure training
        """.split()
    ),
    required={"position_embedding_type": ("absolute",)},
    matches=lambda config: config.get("position_embedding_type") != "alibi",
    pooler="pooler.dense",
    classifier=two_layers("pooler.dense", "classifier", "tanh"),
)


def _roberta(name: str, model_type: str, model_class: str, eps: float, matches: Any = None) -> Family:
    return Family(
        name=name,
        model_type=model_type,
        model_class=model_class,
        base_name="roberta",
        # Positions are counted from the padding's id.
        fields={**_FIELDS, "pad_token_id": "position_padding_id"},
        defaults={"type_vocab_size": 2, "layer_norm_eps": eps, "hidden_act": "gelu", "pad_token_id": 1},
        spellings=(Spelling(_rules, _names("roberta.", ignored=("lm_head.*",))),),
        harmless=_HARMLESS,
        required={"position_embedding_type": ("absolute",)},
        **({} if matches is None else {"matches": matches}),
        pooler="pooler.dense",
        classifier=two_layers("classifier.dense", "classifier.out_proj", "tanh"),
    )


def _not_rotary(config: Mapping[str, Any]) -> bool:
    return config.get("position_embedding_type") != "rotary"


ROBERTA = _roberta("RoBERTa", "roberta", "RobertaModel", 1e-12)
CAMEMBERT = _roberta("CamemBERT", "camembert", "CamembertModel", 1e-12)
XLM_ROBERTA = _roberta("XLM-RoBERTa", "xlm-roberta", "XLMRobertaModel", 1e-12, _not_rotary)


def _embedding_size(fields: Fields) -> dict[str, Any]:
    """Return the embedding size for ELECTRA, which projects only where the widths differ."""
    size = fields.take_count("embedding_size", 128)
    return {"embedding_size": None if size == fields.take_count("hidden_size") else size}


ELECTRA = Family(
    name="ELECTRA",
    model_type="electra",
    model_class="ElectraModel",
    base_name="electra",
    fields=_FIELDS,
    defaults={"type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    read=_embedding_size,
    write=lambda config: {"embedding_size": config.embedding_size or config.hidden_size},
    spellings=(
        Spelling(_rules, _names("electra.", "discriminator.", ignored=("discriminator_predictions.*", "generator_*"))),
    ),
    harmless=_HARMLESS
    | {"pad_token_id", "summary_activation", "summary_last_dropout", "summary_type"}
    | {"summary_use_proj"},
    required={"position_embedding_type": ("absolute",)},
    classifier=two_layers("classifier.dense", "classifier.out_proj", "gelu"),
)
