"""The tokenizer of a foreign checkpoint as one tokenizer.json that says everything.

Hugging Face spreads what a tokenizer does over tokenizer.json, tokenizer_config.json, special_tokens_map.json and
added_tokens.json, and its class decides which of them wins. A plain BERT tokenizer is read here, without transformers:
its class takes ``do_lower_case``, ``strip_accents`` and ``tokenize_chinese_chars`` from tokenizer_config.json (true,
follow the case, true where they are absent) and does not look at the normaliser in tokenizer.json. Whatever is not
plain in every respect, or has no tokenizer.json, goes through transformers, once, at conversion.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from conversion.fields import Fields
from conversion.source import read_json_object
from tsjax.errors import ConversionError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

Json: TypeAlias = dict[str, Any]

_BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_BERT_TOKENS = {
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}
_WHOLE = "tokenizer.json"
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
# The files that hold a vocabulary; those of one row only together.
_VOCABULARIES = ((_WHOLE,), ("vocab.txt",), ("vocab.json", "merges.txt"), *((name,) for name in _SENTENCEPIECE))


class TokenizerSource(NamedTuple):
    """A tokenizer and what is said about it besides.

    Attributes:
        json: the content of tokenizer.json.
        model_max_length: the most tokens that a text may have; None if it does not say.
        pad_token_id: the id of the token that it names for padding; None if it names none.
        token_types: whether the model is told which of a pair's two texts a token belongs to.
    """

    json: str
    model_max_length: int | None
    pad_token_id: int | None
    token_types: bool


def read_tokenizer(directory: Path, model_config: Json, *, lower_case: bool) -> TokenizerSource:
    """Read the tokenizer of a checkpoint.

    Args:
        directory: with tokenizer.json and tokenizer_config.json, or what transformers can read instead.
        model_config: config.json; names the class where tokenizer_config.json does not.
        lower_case: whether text is lower-cased first, on top of what the tokenizer does (sentence-transformers).

    Raises:
        ConversionError: there is no tokenizer, it is damaged, or it does what tsjax does not.
        MissingExtraError: there is only a SentencePiece model, and the packages that read it are not installed.
    """
    file = directory / "tokenizer_config.json"
    config = read_json_object(file, optional=True)
    # Most of its fields concern what tsjax does itself, or nothing; these would give other ids.
    fields = Fields(config, str(file))
    fields.require("truncation_side", "right")
    # Padding is masked and always on the right here: on which side it was changes no vector.
    fields.require("padding_side", "right", "left")
    fields.require("split_special_tokens", False)
    token_types = True  # as BertTokenizer says
    content = _plain_bert(directory, config, model_config)
    if content is None:
        content, token_types = _through_transformers(directory)
    if lower_case:
        content["normalizer"] = _lower_cased(content.get("normalizer"))
    content["padding"] = content["truncation"] = None  # those of whoever saved it, not of the model
    longest = config.get("model_max_length")
    # "No limit" is written as 10³⁰.
    if not isinstance(longest, int | float) or isinstance(longest, bool) or not 0 < longest < 1e9:
        longest = None
    return TokenizerSource(
        json.dumps(content, ensure_ascii=False),
        None if longest is None else int(longest),
        _id_of(content, _text(config.get("pad_token"))),
        token_types,
    )


def _id_of(content: Json, token: object) -> int | None:
    """The id of an added token."""
    added = (one for one in content.get("added_tokens") or [] if isinstance(one, dict))
    return next((one.get("id") for one in added if token is not None and one.get("content") == token), None)


def _plain_bert(directory: Path, config: Json, model_config: Json) -> Json | None:
    """The content of tokenizer.json as BertTokenizer would have it; None if it is not plainly one."""
    file = directory / _WHOLE
    name = config.get("tokenizer_class") or model_config.get("tokenizer_class") or _BERT_CLASSES[0]
    # For some other types of model transformers does not believe the name of the class.
    if not file.exists() or name not in _BERT_CLASSES or model_config.get("model_type") != "bert":
        return None
    content = read_json_object(file)
    model, normalizer, template = (_part(content, key) for key in ("model", "normalizer", "post_processor"))
    vocabulary = _part(model, "vocab")
    added = [token for token in content.get("added_tokens") or [] if isinstance(token, dict)]
    known = {token.get("content") for token in added}
    extra = read_json_object(directory / "added_tokens.json", optional=True)
    named = {**read_json_object(directory / "special_tokens_map.json", optional=True), **config}
    flagged = [*_part(named, "added_tokens_decoder").values(), *(named.get(key) for key in _BERT_TOKENS)]
    plain = (
        model.get("type") == "WordPiece"
        and model.get("unk_token") == "[UNK]"
        and model.get("continuing_subword_prefix", "##") == "##"
        and model.get("max_input_chars_per_word", 100) == 100
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and _part(content, "pre_tokenizer").get("type") == "BertPreTokenizer"
        and _single(template) == ["[CLS]", "A", "[SEP]"]
        and known >= set(_BERT_TOKENS.values())
        and all(_as_added(token, added) for token in flagged)
        and all(_text(named.get(key, token)) == token for key, token in _BERT_TOKENS.items())
        and known >= _added(named) | set(extra)
        and all(token in vocabulary for token in _BERT_TOKENS.values())
        and (_part(content, "truncation").get("direction") or "Right") == "Right"
        and not config.get("fast_tokenizer_files")  # another tokenizer.json for each version of transformers
    )
    if not plain:
        return None
    normalizer |= {
        "lowercase": _flag(config, "do_lower_case", default=True),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": _flag(config, "tokenize_chinese_chars", default=True),
    }
    return content


def _part(content: Json, key: str) -> Json:
    """An object in an object; empty if there is none."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _text(token: object) -> object:
    """A token's text, where it may be given with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _as_added(token: object, added: list[Json]) -> bool:
    """Whether a token that is given with its flags has them in tokenizer.json too, where they count."""
    return not isinstance(token, dict) or any(token.items() <= one.items() for one in added)


def _added(config: Json) -> set[object]:
    """The tokens that a config adds to the vocabulary."""
    decoder = _part(config, "added_tokens_decoder").values()
    more = [config.get("additional_special_tokens"), config.get("extra_special_tokens")]
    listed = [token for value in more if isinstance(value, list) for token in value]
    named = [token for value in more if isinstance(value, dict) for token in value.values()]
    return {str(_text(token)) for token in (*decoder, *listed, *named)}


def _single(template: Json) -> list[object]:
    """What a post-processor makes of one text, as names."""
    if template.get("type") == "BertProcessing":
        pairs = [template.get("cls"), template.get("sep")]
        cls, sep = (pair[0] if isinstance(pair, list) and pair else None for pair in pairs)
        return [cls, "A", sep]
    steps = template.get("single")
    if template.get("type") != "TemplateProcessing" or not isinstance(steps, list):
        return []
    return [_part(step, next(iter(step))).get("id") for step in steps if isinstance(step, dict) and step]


def _flag(config: Json, name: str, *, default: bool) -> bool:
    value = config.get(name)
    return default if value is None else bool(value)


def _through_transformers(directory: Path) -> tuple[Json, bool]:
    """The content of tokenizer.json as transformers' class has it, and whether the class gives token types.

    Raises:
        ConversionError: transformers cannot read it, or what it read does what tsjax does not.
        MissingExtraError: packages are missing for the only file there is.
    """
    found = [names for names in _VOCABULARIES if all((directory / name).is_file() for name in names)]
    if not found:
        # transformers would make a tokenizer without words, for which every text is [UNK].
        known = ", ".join(" with ".join(names) for names in _VOCABULARIES)
        raise ConversionError(f"{directory} holds no tokenizer: none of {known}")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch is as it should be
    from transformers import AutoTokenizer, utils  # noqa: PLC0415  # slow to import, and rarely needed

    readable = utils.is_sentencepiece_available() and utils.is_protobuf_available()
    if not readable and all(names[0] in _SENTENCEPIECE for names in found):
        raise MissingExtraError(
            f"{directory} has only {found[0][0]}, and reading that needs sentencepiece and protobuf; "
            "install them with: pip install sentencepiece protobuf"
        )
    try:
        # Left open, the question whether to run the checkpoint's own code would be put to the user.
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        content = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # many kinds, and all mean that there is no usable tokenizer
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConversionError(f"{directory} holds no tokenizer that transformers can read: {reason:.200}") from error
    wanted = tuple(name for name in tokenizer.vocab_files_names.values() if name != _WHOLE)
    if not any(names in ((_WHOLE,), wanted, ("tokenizer.model",)) for names in found):
        # Again a tokenizer without words: the class did not look at the file that there is.
        raise ConversionError(
            f"{directory} has {' and '.join(found[0])}, but its {type(tokenizer).__name__} "
            f"reads {' and '.join(wanted) or _WHOLE}"
        )
    if tokenizer.truncation_side != "right":  # tokenizer.json may say so where tokenizer_config.json is silent
        raise ConversionError(f"{directory / _WHOLE}: truncation on the {tokenizer.truncation_side} is not supported")
    return content, "token_type_ids" in tokenizer.model_input_names


def _lower_cased(normalizer: Json | None) -> Json:
    """The normaliser with lower-casing put before it, unless it lower-cases already."""
    steps = [normalizer] if normalizer else []
    steps = (normalizer or {}).get("normalizers", steps)
    if normalizer is not None and any(s.get("type") == "Lowercase" or s.get("lowercase") is True for s in steps):
        return normalizer
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
