"""The model families that can be converted, and the table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.families.albert import ALBERT
from conversion.families.bert import BERT, CAMEMBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from conversion.families.decoders import EUROBERT, GEMMA, QWEN3
from conversion.families.distilbert import DISTILBERT
from conversion.families.jina_v2 import JINA_V2
from conversion.families.modernbert import MODERNBERT
from conversion.families.mpnet import MPNET
from conversion.families.rotary import GTE, JINA_V3, NOMIC_BERT, PUBLISHED_ARCTIC, PUBLISHED_GTE, PUBLISHED_JINA_V3
from conversion.families.t5 import MT5, T5
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conversion.families.family import Family

FAMILIES: tuple[Family, ...] = (
    BERT,
    ROBERTA,
    CAMEMBERT,
    XLM_ROBERTA,
    DISTILBERT,
    MPNET,
    ELECTRA,
    ALBERT,
    T5,
    MT5,
    MODERNBERT,
    NOMIC_BERT,
    GTE,
    PUBLISHED_GTE,
    PUBLISHED_ARCTIC,
    JINA_V2,
    JINA_V3,
    PUBLISHED_JINA_V3,
    EUROBERT,
    QWEN3,
    GEMMA,
)


def family_of(config: Mapping[str, Any], file: str) -> Family:
    """Return the family of a config.json.

    Raises:
        ConversionError: there is no such family; lists the known families.
    """
    for family in FAMILIES:
        if config.get("model_type") == family.model_type and family.matches(config):
            return family
    known = ", ".join(dict.fromkeys(f"{family.name} ({family.model_type})" for family in FAMILIES))
    raise ConversionError(f"{file}: architecture {config.get('model_type')!r} is not supported; tsjax converts {known}")
