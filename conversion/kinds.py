"""The kind of model that a transformers class name stands for, and the parts that it adds to its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from conversion.modules import read_modules
from conversion.source import read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tsjax.checkpoints.format import Kind

_TASK = "ForSequenceClassification"

# Suffixes of the names of transformers' classes that add a head to an encoder.
_TASKS = (
    *(_TASK, "ForCausalLM", "ForConditionalGeneration", "ForMaskedLM", "ForMultipleChoice"),
    *("ForNextSentencePrediction", "ForPreTraining", "ForQuestionAnswering", "ForTokenClassification", "LMHeadModel"),
)

# The parts that these classes add to the encoder, in all families.
_HEADS = frozenset(
    """
    classification_head classifier cls decoder dense discriminator_predictions generator_lm_head generator_predictions
    head lm_head pre_classifier predictions qa_outputs score sequence_summary sop_classifier vocab_layer_norm
    vocab_projector vocab_transform
    """.split()
)


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Return whether config.json describes a sequence classification model."""
    names = config.get("architectures")
    return isinstance(names, list) and any(str(name).endswith(_TASK) for name in names)


def changes_nothing(directory: Path, kind: Kind, *, weights_ignored: bool) -> bool:
    """Return whether a directory is certain to be converted to this kind when no kind is requested.

    Args:
        directory: a checkpoint in the format of Hugging Face or of sentence-transformers.
        kind: the kind that the user requests.
        weights_ignored: whether the user excludes weights; without its head, a classifier becomes an embedder.

    Raises:
        ConversionError: modules.json or a config.json is damaged.
    """
    modules = read_modules(directory)
    folders = dict.fromkeys([directory, *(module.path for module in modules)])
    classifier = any(is_classifier(read_json_object(folder / "config.json", optional=True)) for folder in folders)
    if kind == "embedder":
        return not classifier
    return classifier and not modules and not weights_ignored


def head_weights(config: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    """Return the weights of a file that belong to the head of another task, which an embedder excludes.

    Args:
        config: config.json, which names the model's class; a class from outside transformers may use the weights in any
            way.
        names: names of the weights in the file.
    """
    classes = config.get("architectures")
    if not isinstance(classes, list) or not any(str(name).endswith(_TASKS) for name in classes):
        return frozenset()
    return frozenset(name for name in names if name.partition(".")[0] in _HEADS)


def is_causal(config: Mapping[str, Any]) -> bool:
    """Return whether sentence-transformers pools by the last token without modules.json: a causal language model."""
    classes = config.get("architectures")
    first = str(classes[0]) if isinstance(classes, list) and classes else ""
    return first.endswith("ForCausalLM") and bool(config.get("is_causal", True))
