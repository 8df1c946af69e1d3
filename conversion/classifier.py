"""The head that turns an encoder into a cross-encoder: the layers between the first token and the logits, by family.

It consists of the modules that may follow pooling in a sentence-transformers model: Dense and LayerNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from conversion.fields import Fields
from conversion.heads import Classifier, dense
from tsjax.errors import ConversionError
from tsjax.model.config import EncoderConfig
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from tsjax.model.config import Activation


# Arguments: the encoder, config.json and the number of labels.
MakeClassifier: TypeAlias = Callable[[EncoderConfig, Fields, int], Classifier]


def two_layers(first: str, last: str, activation: Activation) -> MakeClassifier:
    """Return a builder of the most common head: a square layer on the first token, and a layer to the labels."""

    def make(encoder: EncoderConfig, fields: Fields, labels: int) -> Classifier:
        del fields  # no field describes this head
        width = encoder.hidden_size
        return Classifier("cls", (dense(first, width, width, activation), dense(last, width, labels)))

    return make


def label_count(config: Mapping[str, Any], file: str) -> int:
    """Return the number of labels; 2 where config.json does not state it, as in transformers.

    Raises:
        ConversionError: the value is not an integer of at least 1.
    """
    names = config.get("id2label")
    count = len(names) if isinstance(names, dict) and names else config.get("num_labels", 2)
    return whole_number(f"{file}: num_labels", count, error=ConversionError)
