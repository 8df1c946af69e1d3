"""What kind of model transformers' name of a class stands for, and what it has beside its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.modules import read_modules
from conversion.source import read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tsjax.checkpoint import Kind

_TASK = "ForSequenceClassification"

# The ends of the names of transformers' classes that put a head on an encoder.
_TASKS = (
    *(_TASK, "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM", "ForMultipleChoice"),
    *("ForNextSentencePrediction", "ForPreTraining", "ForQuestionAnswering", "ForTokenClassification", "LMHeadModel"),
)

# The parts that these classes put beside the encoder, in all families.
_HEADS = frozenset(
    """
    classification_head classifier cls decoder dense discriminator_predictions generator_lm_head generator_predictions
    head lm_head pre_classifier predictions qa_outputs score sequence_summary sop_classifier vocab_layer_norm
    vocab_projector vocab_transform
    """.split()
)


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether config.json is that of a sequence classification model."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(_TASK) for name in names)


def kind_of(directory: Path) -> Kind:
    """Return what a directory is converted to where nobody says: a cross-encoder if it has a classifier and no pooling.

    Raises:
        ConversionError: modules.json is damaged.
    """
    modules = read_modules(directory)
    if not modules and not (directory / "config.json").exists():
        return "embedder"  # or nothing at all, as the conversion will say
    if len(modules) > 1:
        return "embedder"
    at = modules[0].path if modules else directory
    return "cross_encoder" if is_classifier(read_json_object(at / "config.json", optional=True)) else "embedder"


def head_weights(config: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """Return the weights of a file that belong to the head of another task, which an embedder leaves out.

    Args:
        config: config.json, which names the model's class; one that is not transformers' may do anything with them.
        names: of the weights in the file.
    """
    classes = config.get("architectures")
    if not isinstance(classes, list) or not any(str(name).endswith(_TASKS) for name in classes):
        return frozenset()
    return frozenset(name for name in names if name.partition(".")[0] in _HEADS)


def is_causal(config: Mapping[str, Any]) -> bool:
    """Whether sentence-transformers pools by the last token where no modules.json says how: a causal language model."""
    classes = config.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    return first.endswith("ForCausalLM") and bool(config.get("is_causal", True))
