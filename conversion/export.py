"""Export to a Hugging Face and sentence-transformers directory, with τ folded into the weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from conversion.convert import axes
from conversion.export_modules import modules
from conversion.families import FAMILIES
from conversion.families.family import ACTIVATION_NAMES
from conversion.fields import Fields
from conversion.heads import Classifier
from conversion.model_card import model_card
from conversion.rules import Rule, invert
from tsjax.checkpoints.format import read_header, read_tokenizer, read_weights, write_tensors
from tsjax.checkpoints.temperature_folding import fold_weights
from tsjax.errors import ConversionError
from tsjax.model.forward import weight_shapes
from tsjax.storage.atomic import check_absent, replacing
from tsjax.temperature import Temperature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from conversion.families.family import Family
    from tsjax.checkpoints.format import Header, Metadata
    from tsjax.model.config import EncoderConfig

    Weights = dict[str, NDArray[np.float32]]

# Special tokens by transformers' names for them, under the spellings in use.
_SPECIAL = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def export(source: Path, destination: Path, *, temperature: Temperature | None = None) -> None:
    """Write a tsjax checkpoint in the format of transformers and sentence-transformers.

    Args:
        source: the checkpoint.
        destination: the directory to create.
        temperature: τ to fold into the weights; None for the one saved with the model.

    Raises:
        CheckpointError: the source is damaged.
        ConversionError: the architecture has no class in transformers.
        InputError: τ cannot be folded into its weights.
        OutputError: the destination exists, or cannot be written.
    """
    check_absent(destination, directory=True, overwrite=None)
    header = read_header(source)
    metadata, encoder = header.metadata, header.metadata.model.encoder
    family = _family(header)
    tau = metadata.temperature if temperature is None else temperature
    weights = fold_weights(read_weights(header, weight_shapes(metadata.model)), tau, encoder)
    below = {name.removeprefix("encoder."): weight for name, weight in weights.items()}
    rules = (*family.spellings[0].rules(encoder), *(family.pooler_rules() if metadata.pooler else ()))
    theirs = invert(rules, encoder.num_layers, below, axes(encoder))
    tokenizer_json = read_tokenizer(header)
    special = special_tokens(Tokenizer.from_str(tokenizer_json), metadata.pad_token_id)
    config = {**special.ids, "pad_token_id": metadata.pad_token_id, "dtype": "float32", **family.config(encoder)}
    if metadata.kind == "cross_encoder":
        classifier = _classifier(family, metadata)
        for index, (_, rules) in enumerate(classifier.steps):
            theirs |= _head(weights, index, rules, encoder)
        # In such a file, the names of the bare encoder are prefixed with the name of its model.
        theirs = {_full_name(name, classifier, family): tensor for name, tensor in theirs.items()}
        labels = classifier.steps[-1][0].out_features
        config |= {
            "architectures": [family.classifier_class],
            "id2label": {str(i): f"LABEL_{i}" for i in range(labels)},
            "label2id": {f"LABEL_{i}": i for i in range(labels)},
            **classifier.config,
        }
    with replacing(destination, directory=True) as directory:
        write_tensors(directory / "model.safetensors", theirs)
        _write_json(directory / "config.json", config)
        _write_tokenizer(directory, tokenizer_json, special, metadata)
        model_card(metadata, tau).save(directory / "README.md")
        folders, files = modules(metadata)
        for name, content in files.items():
            _write_json(directory / name, content)
        for module in folders:
            folder = directory / module.folder
            folder.mkdir()
            _write_json(folder / "config.json", module.config)
            if module.head is not None and module.rules:
                tensors = _head(weights, module.head, module.rules, encoder)
                write_tensors(folder / "model.safetensors", tensors)


def _family(header: Header) -> Family:
    name = header.metadata.family
    family = next((family for family in FAMILIES if family.name == name and family.exportable), None)
    if family is None:
        raise ConversionError(f"{header.path}: transformers has no class for {name or 'it'}, so it cannot be exported")
    if header.metadata.model.encoder.position_stride > 1:
        raise ConversionError(f"{header.path}: no config of transformers says that positions have a stride")
    return family


def _classifier(family: Family, metadata: Metadata) -> Classifier:
    """Return the head of a cross-encoder, with the names of its weights."""
    assert family.classifier is not None  # it was converted
    heads = metadata.model.heads
    config = {
        "classifier_pooling": metadata.model.pooling.modes[0],
        "classifier_activation": ACTIVATION_NAMES[heads[0].activation],
        "classifier_bias": heads[0].use_bias,
    }
    return family.classifier(metadata.model.encoder, Fields(config, str(metadata.source)), heads[-1].out_features)


def _full_name(name: str, classifier: Classifier, family: Family) -> str:
    """Return the name of a weight in the file of a sequence classification model."""
    own = any(rule.torch == name for _, rules in classifier.steps for rule in rules)
    return name if own and not name.startswith(f"{family.pooler}.") else f"{family.base_name}.{name}"


def _head(weights: Weights, index: int, rules: tuple[Rule, ...], encoder: EncoderConfig) -> Weights:
    prefix = f"heads.{index}."
    own = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
    return invert(rules, 1, own, axes(encoder))


class SpecialTokens(NamedTuple):
    """Special tokens by transformers' names for them, and their ids by config.json's names."""

    tokens: dict[str, str]
    ids: dict[str, int]


def special_tokens(tokenizer: Tokenizer, pad_token_id: int) -> SpecialTokens:
    """Return the special tokens of a tokenizer.

    A token that is named as padding is no longer treated as text, so only a token that is already special is named. If
    the padding token is not special (any id is possible, because padding is masked), another special token is named
    instead.
    """
    known = tokenizer.get_vocab(with_added_tokens=True)
    tokens = {name: next((s for s in spellings if s in known), None) for name, spellings in _SPECIAL.items()}
    found = {name: token for name, token in tokens.items() if token is not None}
    added = tokenizer.get_added_tokens_decoder()
    special = [index for index in (pad_token_id, *sorted(added)) if index in added and added[index].special]
    if special:
        found["pad_token"] = added[special[0]].content
    ends = {"bos": "cls_token", "cls": "cls_token", "eos": "sep_token", "sep": "sep_token"}
    return SpecialTokens(found, {f"{name}_token_id": known[found[as_]] for name, as_ in ends.items() if as_ in found})


def _write_tokenizer(directory: Path, content: str, special: SpecialTokens, metadata: Metadata) -> None:
    """Write tokenizer.json unchanged, and the config files that its tokenizer class in transformers requires."""
    (directory / "tokenizer.json").write_text(content, encoding="utf-8")
    names = (
        ["input_ids", "token_type_ids", "attention_mask"] if metadata.token_types else ["input_ids", "attention_mask"]
    )
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": metadata.max_seq_length,
            "model_input_names": names,
            **special.tokens,
        },
    )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
