"""The tokenizer of a foreign checkpoint as one tokenizer.json that says everything.

Hugging Face splits what a tokenizer does over tokenizer.json and tokenizer_config.json, and for BERT the second wins:
the class builds its normaliser from ``do_lower_case``, ``strip_accents`` and ``tokenize_chinese_chars`` there (true,
follow the case, true where they are absent) and does not look at the first. That is resolved here, once. transformers
is imported only where a checkpoint has no tokenizer.json, or one that is not what its class would build.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from conversion.fields import Fields
from conversion.source import read_json_object
from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Classes that take tokenizer.json as it is; any other builds its tokenizer from parts of it.
_GENERIC_CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}
_BERT_CLASSES = {"BertTokenizer", "BertTokenizerFast"}
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")


class TokenizerSource(NamedTuple):
    """A tokenizer, and the most tokens that its config says a text may have; None if it does not say."""

    json: str
    model_max_length: int | None


def read_tokenizer(directory: Path, model_config: Mapping[str, Any], *, lower_case: bool) -> TokenizerSource:
    """Read the tokenizer of a checkpoint.

    Args:
        directory: with tokenizer.json and tokenizer_config.json, or what transformers can read instead.
        model_config: config.json; names the class where tokenizer_config.json does not.
        lower_case: whether text is lower-cased first, on top of what the tokenizer does (sentence-transformers).

    Raises:
        ConversionError: there is no tokenizer, it is damaged, or it does what tsjax does not.
    """
    file = directory / "tokenizer_config.json"
    config = read_json_object(file, optional=True)
    # Most of its fields concern what tsjax does itself, or nothing; these would give other ids.
    fields = Fields(config, str(file))
    fields.require("truncation_side", "right")
    fields.require("padding_side", "right")
    fields.require("split_special_tokens", False)
    content = _tokenizer(directory, config, model_config)
    _check_added_tokens(config, content, file)
    if lower_case:
        content["normalizer"] = _lower_cased(content.get("normalizer"))
    content["padding"] = content["truncation"] = None  # those of whoever saved it, not of the model
    longest = config.get("model_max_length")
    # "No limit" is written as 10³⁰.
    if not isinstance(longest, int | float) or isinstance(longest, bool) or not 0 < longest < 1e9:
        longest = None
    return TokenizerSource(json.dumps(content, ensure_ascii=False), None if longest is None else int(longest))


def _tokenizer(directory: Path, config: Mapping[str, Any], model_config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json as the tokenizer's class would have it."""
    file = directory / "tokenizer.json"
    if not file.exists():
        return _through_transformers(directory)
    content = read_json_object(file)
    name = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    if name in _GENERIC_CLASSES:
        return content
    if (name in _BERT_CLASSES or (name is None and model_config.get("model_type") == "bert")) and _is_bert(content):
        content["normalizer"] |= {
            "lowercase": _flag(config, "do_lower_case", default=True),
            "strip_accents": config.get("strip_accents"),
            "handle_chinese_chars": _flag(config, "tokenize_chinese_chars", default=True),
        }
        return content
    return _through_transformers(directory)


def _check_added_tokens(config: Mapping[str, Any], content: Mapping[str, Any], file: Path) -> None:
    """Check that tokenizer.json has the tokens that tokenizer_config.json adds."""
    listed = config.get("added_tokens_decoder") or {}
    known = {token.get("content") for token in content.get("added_tokens") or []}
    vocabulary = (content.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, dict):
        known |= set(vocabulary)
    for token in listed.values() if isinstance(listed, dict) else ():
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(vocabulary, dict) and text not in known:
            raise ConversionError(f"{file}: added token {text!r} is not in tokenizer.json")


def _flag(config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = config.get(name)
    return default if value is None else bool(value)


def _is_bert(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is what BertTokenizer would build, but for the flags of its normaliser."""
    model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
    return (
        model.get("type") == "WordPiece"
        and model.get("continuing_subword_prefix", "##") == "##"
        and model.get("max_input_chars_per_word", 100) == 100
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and (content.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and (content.get("post_processor") or {}).get("type") in {"TemplateProcessing", "BertProcessing"}
    )


def _through_transformers(directory: Path) -> dict[str, Any]:
    if not any((directory / name).is_file() for name in _VOCABULARIES):
        # transformers would make a tokenizer without words, for which every text is [UNK].
        raise ConversionError(f"{directory} holds no tokenizer: none of {', '.join(_VOCABULARIES)}")
    from transformers import AutoTokenizer  # noqa: PLC0415  # slow to import, and rarely needed

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        return json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # many kinds, and all mean that there is no usable tokenizer
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConversionError(f"{directory} holds no tokenizer that transformers can read: {reason:.200}") from error


def _lower_cased(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    """The normaliser with lower-casing put before it, unless it lower-cases already."""
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if normalizer is not None and any(s.get("type") == "Lowercase" or s.get("lowercase") is True for s in steps):
        return normalizer
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
