"""The tokenizer of a foreign checkpoint as one complete tokenizer.json.

Hugging Face stores the settings of a tokenizer in tokenizer.json, tokenizer_config.json, special_tokens_map.json and
added_tokens.json, and its class decides which of them wins. A plain BERT tokenizer is read here, without transformers,
as its class reads it: it takes the vocabulary and the added tokens from tokenizer.json, and builds the rest from
``do_lower_case``, ``strip_accents`` and ``tokenize_chinese_chars`` of tokenizer_config.json (defaults: true, the value
of ``do_lower_case``, true). A tokenizer that is not plain in every respect, or has no tokenizer.json, is loaded with
transformers, once, at conversion.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from conversion.fields import Fields
from conversion.files import CHAT_TEMPLATES
from conversion.source import read_json_object
from tsjax.errors import ConversionError, require_optional
from tsjax.text.panics import reported_panics

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
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
# The files that hold a vocabulary; files in one row are only valid together.
_VOCABULARIES = ((_WHOLE,), ("vocab.txt",), ("vocab.json", "merges.txt"), *((name,) for name in _SENTENCEPIECE))

_CHAT = "chat_template"
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")

# The fields of tokenizer_config.json by content. Those that affect ids are read by transformers' class, or below; the
# others are bookkeeping. The special tokens, whose names end in "_token", come in addition.
_KNOWN: dict[type | tuple[type, ...], str] = {
    bool: """
        add_bos_token add_eos_token add_prefix_space clean_text clean_up_tokenization_spaces
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output do_basic_tokenize do_lower_case
        fix_mistral_regex from_slow is_local keep_accents legacy local_files_only remove_space
        spaces_between_special_tokens strip_accents tokenize_chinese_chars trim_offsets use_default_system_prompt
        use_fast verbose
    """,
    str: """
        _commit_hash backend errors full_tokenizer_file merges_file name_or_path processor_class special_tokens_map_file
        tokenizer_class tokenizer_file tokenizer_type transformers_version truncation_strategy vocab_file
        wordpieces_prefix
    """,
    int: "extra_ids max_length pad_to_multiple_of pad_token_type_id stride",
    (int, float): "max_len model_max_length",
    list: "additional_special_tokens chat_control_tokens fast_tokenizer_files files_loaded never_split",
    dict: """
        added_tokens_decoder max_model_input_sizes model_specific_special_tokens pretrained_vocab_files_map
        response_schema sp_model_kwargs
    """,
    (dict, list): "auto_map extra_special_tokens",
    (dict, list, str): "chat_template response_template",
}


class TokenizerSource(NamedTuple):
    """A tokenizer and its settings outside tokenizer.json.

    Attributes:
        json: the content of tokenizer.json.
        model_max_length: the maximum number of tokens of a text; None if it is not stated.
        pad_token_id: the id of the token that is named for padding; None if no token is named.
        token_types: whether the model receives the segment of each token, such as the first or second text of a pair.
    """

    json: str
    model_max_length: int | None
    pad_token_id: int | None
    token_types: bool


def read_tokenizer(
    directory: Path, model_config: Json, *, lower_case: bool, chats: bool = False, ignore: Collection[str] = ()
) -> TokenizerSource:
    """Read the tokenizer of a checkpoint.

    Args:
        directory: directory with tokenizer.json and tokenizer_config.json, or other files that transformers can read.
        model_config: config.json; names the class where tokenizer_config.json does not.
        lower_case: whether text is lower-cased first, in addition to the tokenizer's own steps (sentence-transformers).
        chats: whether sentence-transformers would format texts with a chat template, if there is one.
        ignore: names of fields in tokenizer_config.json that the user accepts although tsjax does not know them.

    Raises:
        ConversionError: there is no tokenizer, it is damaged, or it has a feature that tsjax does not support.
        MissingExtraError: there is only a SentencePiece model, and the packages that read it are not installed.
    """
    file = directory / "tokenizer_config.json"
    config = read_json_object(file, optional=True)
    token_types = _check(Fields(config, str(file), ignore))
    _check_tokens(config, file)
    for name in ("special_tokens_map.json", "added_tokens.json"):
        _check_tokens(read_json_object(directory / name, optional=True), directory / name)
    if chats and _CHAT not in ignore:
        _refuse_chat_templates(directory, config)
    content = _plain_bert(directory, config, model_config)
    if content is None:
        content, of_class = _through_transformers(directory)
    else:
        of_class = True  # the default of BertTokenizer
    if lower_case:
        content["normalizer"] = _lower_cased(content.get("normalizer"))
    content["padding"] = content["truncation"] = None  # settings of the last user, not of the model
    _check_template(_part(content, "post_processor"), directory / _WHOLE)
    return TokenizerSource(
        json.dumps(content, ensure_ascii=False),
        _longest(config, str(file)),
        _id_of(content, _text(config.get("pad_token"))),
        of_class if token_types is None else token_types,
    )


def _check(fields: Fields) -> bool | None:
    """Check each field of tokenizer_config.json; return whether it names token types, None if it does not state this.

    Raises:
        ConversionError: a field is unknown, or of the wrong type, or has a value that would give other ids.
    """
    fields.require("truncation_side", "right")
    # Padding is masked and always on the right here, so the original padding side changes no vector.
    fields.require("padding_side", "right", "left")
    fields.require("split_special_tokens", False)
    fields.require("init_inputs", [])
    for kind, names in _KNOWN.items():
        for name in names.split():
            fields.take(name, None, kind)
    for name in sorted(name for name in fields.left if name.endswith("_token")):
        fields.take(name, None, (dict, str))
    names = fields.take("model_input_names", None, list)
    fields.done()
    if names is None:
        return None
    if "attention_mask" not in names:
        raise ConversionError(
            f"{fields.file}: model_input_names = {names!r:.100} has no attention_mask; padding would be read as text"
        )
    return "token_type_ids" in names


def _check_tokens(config: Json, file: Path) -> None:
    """Check the tokens that a file adds or names: a text, or an object of a text and known flags.

    transformers prints a warning for an unknown flag and ignores it.

    Raises:
        ConversionError: names the token.
    """
    more = [config.get(name) for name in (*_LISTS, "model_specific_special_tokens", "added_tokens_decoder")]
    inner = [value for value in more if isinstance(value, dict | list)]
    tokens = [token for value in inner for token in (value.values() if isinstance(value, dict) else value)]
    tokens += [value for name, value in config.items() if name.endswith("_token") and isinstance(value, dict | list)]
    for token in tokens:
        _check_token(token, file)


def _check_token(token: object, file: Path) -> None:
    if isinstance(token, str):
        return
    flags = dict(token) if isinstance(token, dict) else {}
    content = flags.pop("content", None)
    flags.pop("__type", None)
    flags.pop("id", None)
    for flag, value in flags.items():
        if flag not in _FLAGS or not isinstance(value, bool):
            raise ConversionError(
                f"{file}: the added token {content!r:.60} has {flag!r:.60} = {value!r:.60}; known are "
                f"{', '.join(_FLAGS)}, which are true or false"
            )
    if not isinstance(content, str):
        raise ConversionError(f"{file}: an added token is {token!r:.60}, not a text, or an object with a content")


def _check_added(content: Json, file: Path) -> list[Json]:
    """Return the added tokens of tokenizer.json, after checking that each has a text of its own and known flags.

    Raises:
        ConversionError: names the token that is damaged or duplicate.
    """
    added = content.get("added_tokens", [])
    if not isinstance(added, list):
        raise ConversionError(f"{file}: added_tokens is {added!r:.60}, not a list")
    texts = set()
    for token in added:
        if not isinstance(token, dict) or isinstance(token.get("id"), bool) or not isinstance(token.get("id"), int):
            raise ConversionError(f"{file}: an added token is {token!r:.60}, not an object with an id and a content")
        _check_token(token, file)
        if (text := token["content"]) in texts:
            raise ConversionError(f"{file}: the token {text!r:.60} is added twice")
        texts.add(text)
    return added


def _check_template(processor: Json, file: Path) -> None:
    """Check that the special tokens in a post-processor have ids. The Rust tokenizer panics for one without an id.

    Raises:
        ConversionError: names the token without an id.
    """
    for inner in processor.get("processors") or ():
        _check_template(inner, file)
    known = _part(processor, "special_tokens")
    for step in (*(processor.get("single") or ()), *(processor.get("pair") or ())):
        name = _part(step, "SpecialToken").get("id")
        if name is not None and name not in known:
            raise ConversionError(f"{file}: the post-processor adds the special token {name!r:.60}, which has no id")


def _refuse_chat_templates(directory: Path, config: Json) -> None:
    """Refuse the chat templates that sentence-transformers would apply to each text or pair.

    It applies them where there is no modules.json, or where modules.json asks for it.
    """
    files = (directory / f"{_CHAT}.jinja", *sorted((directory / CHAT_TEMPLATES).glob("*.jinja")))
    found = next((file for file in files if file.is_file()), None)
    if found is None and config.get(_CHAT) is not None:
        found = directory / "tokenizer_config.json"
    if found is not None:
        raise ConversionError(
            f"{found}: there is a {_CHAT}, and no modules.json: sentence-transformers writes every text into it, which "
            f"tsjax does not; pass --ignore-config-field {_CHAT} to embed the texts as they are"
        )


def _longest(config: Json, file: str) -> int | None:
    """Return the maximum number of tokens; ``max_len`` is the old name, used only if the new one is absent."""
    name = "model_max_length" if "model_max_length" in config else "max_len"
    length = config.get(name)
    if length is None or length >= 1e9:  # "no limit" is written as 10³⁰
        return None
    if not (length >= 1 and length == int(length)):
        raise ConversionError(f"{file}: {name} = {length!r} is not a whole number of at least 1")
    return int(length)


def _id_of(content: Json, token: object) -> int | None:
    """Return the id of an added token."""
    added = (one for one in content.get("added_tokens") or [] if isinstance(one, dict))
    return next((one.get("id") for one in added if token is not None and one.get("content") == token), None)


def _plain_bert(directory: Path, config: Json, model_config: Json) -> Json | None:
    """Return the content of tokenizer.json as BertTokenizer would have it; None if the tokenizer is not plainly one."""
    file = directory / _WHOLE
    name = config.get("tokenizer_class") or model_config.get("tokenizer_class") or _BERT_CLASSES[0]
    # transformers ignores the class name for some other model types.
    if not file.exists() or name not in _BERT_CLASSES or model_config.get("model_type") != "bert":
        return None
    content = read_json_object(file)
    vocabulary = _part(_part(content, "model"), "vocab")
    added = _check_added(content, file)
    known = {token["content"]: token["id"] for token in added}
    named = _named(directory, config)
    given = {key: value for key, value in named.items() if key.endswith("_token")}
    decoder = _part(config, "added_tokens_decoder")
    flagged = [*decoder.values(), *given.values()]
    plain = (
        _part(content, "model").get("type") == "WordPiece"
        and all(token in vocabulary for token in _BERT_TOKENS.values())
        and all(vocabulary.get(token) == index for token, index in known.items())
        and set(known) >= set(_BERT_TOKENS.values())
        and all(_text(given.get(key, token)) == token for key, token in _BERT_TOKENS.items())
        and all(_text(token) in known and _as_added(token, added) for token in flagged)
        and set(known) >= _more(named)
        # With a decoder, the class adds the tokens that are named there, and no other tokens of tokenizer.json.
        and ("added_tokens_decoder" not in config or {_text(token) for token in decoder.values()} == set(known))
        and all(known.get(token) == index for token, index in _legacy(directory, config).items())
        and (_part(content, "truncation").get("direction") or "Right") == "Right"
        # Another tokenizer.json for each version of transformers, or a class in the checkpoint itself.
        and not config.get("fast_tokenizer_files")
        and "auto_map" not in config
    )
    return {**content, **_bert_parts(vocabulary, config)} if plain else None


def _named(directory: Path, config: Json) -> Json:
    """Return the special tokens by name, as transformers gathers them.

    special_tokens_map.json is the older file. It wins over tokenizer_config.json, unless that lists all added tokens.
    """
    if "added_tokens_decoder" in config:
        return config
    return {**config, **read_json_object(directory / "special_tokens_map.json", optional=True)}


def _legacy(directory: Path, config: Json) -> Json:
    """Return the ids in added_tokens.json, which counts where tokenizer_config.json does not list the added tokens."""
    return {} if "added_tokens_decoder" in config else read_json_object(directory / "added_tokens.json", optional=True)


def _bert_parts(vocabulary: Mapping[str, object], config: Json) -> Json:
    """Return the parts of tokenizer.json that BertTokenizer rebuilds."""
    first, last = (_BERT_TOKENS[name] for name in ("cls_token", "sep_token"))

    def special(token: str, segment: int) -> Json:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    def text(name: str, segment: int) -> Json:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special(first, 0), text("A", 0), special(last, 0)]
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": _flag(config, "tokenize_chinese_chars", default=True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": _flag(config, "do_lower_case", default=True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, text("B", 1), special(last, 1)],
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in (first, last)
            },
        },
        "model": {
            "type": "WordPiece",
            "unk_token": _BERT_TOKENS["unk_token"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def _part(content: Json, key: str) -> Json:
    """Return an object in an object; empty if the key is absent."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _text(token: object) -> object:
    """Return a token's text, where the token may be given with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _as_added(token: object, added: list[Json]) -> bool:
    """Return whether a token that is given with its flags has the same flags in tokenizer.json, where they count."""
    return not isinstance(token, dict) or any(token.items() <= one.items() for one in added)


def _more(config: Json) -> set[object]:
    """Return the tokens that a config adds to the vocabulary without a name, or under a name of its own."""
    more = [config.get(name) for name in (*_LISTS, "model_specific_special_tokens")]
    listed = [token for value in more if isinstance(value, list) for token in value]
    named = [token for value in more if isinstance(value, dict) for token in value.values()]
    return {str(_text(token)) for token in (*listed, *named)}


def _flag(config: Json, name: str, *, default: bool) -> bool:
    value = config.get(name)
    return default if value is None else bool(value)


def _through_transformers(directory: Path) -> tuple[Json, bool]:
    """Return the content of tokenizer.json from transformers' class, and whether the class returns token types.

    Raises:
        ConversionError: transformers cannot read it, or the result has a feature that tsjax does not support.
        MissingExtraError: packages are missing for the only file there is.
    """
    if (directory / _WHOLE).is_file():
        _check_added(read_json_object(directory / _WHOLE), directory / _WHOLE)
    found = [names for names in _VOCABULARIES if all((directory / name).is_file() for name in names)]
    if not found:
        # transformers would create a tokenizer without a vocabulary, for which every text is [UNK].
        known = ", ".join(" with ".join(names) for names in _VOCABULARIES)
        raise ConversionError(f"{directory} holds no tokenizer: none of {known}")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # PyTorch is not required here
    from transformers import AutoTokenizer  # noqa: PLC0415  # slow to import, and rarely needed

    if all(names[0] in _SENTENCEPIECE for names in found):
        for module in ("sentencepiece", "google.protobuf"):
            feature = f"{directory} has only {found[0][0]}, and reading that"
            require_optional(module, extra="sentencepiece", feature=feature)
    try:
        with reported_panics():
            # The default would ask the user whether to run the checkpoint's own code.
            tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
            content = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # many types, and all mean that there is no usable tokenizer
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConversionError(f"{directory} holds no tokenizer that transformers can read: {reason:.200}") from error
    _check_unique(tokenizer.get_vocab(), directory)
    wanted = tuple(name for name in tokenizer.vocab_files_names.values() if name != _WHOLE)
    if not any(names in ((_WHOLE,), wanted, ("tokenizer.model",)) for names in found):
        # The class ignored the existing file and created a tokenizer without a vocabulary.
        raise ConversionError(
            f"{directory} has {' and '.join(found[0])}, but its {type(tokenizer).__name__} "
            f"reads {' and '.join(wanted) or _WHOLE}"
        )
    if tokenizer.truncation_side != "right":  # tokenizer.json may state it where tokenizer_config.json does not
        raise ConversionError(f"{directory / _WHOLE}: truncation on the {tokenizer.truncation_side} is not supported")
    return content, "token_type_ids" in tokenizer.model_input_names


def _check_unique(vocabulary: Mapping[str, int], directory: Path) -> None:
    """Check that no two tokens have one id. The Rust tokenizer drops one of them when it is saved.

    Raises:
        ConversionError: names the two tokens.
    """
    by_id: dict[int, str] = {}
    for token, index in vocabulary.items():
        if (other := by_id.setdefault(index, token)) != token:
            raise ConversionError(f"{directory}: the tokens {other!r:.60} and {token!r:.60} have the same id {index}")


def _lower_cased(normalizer: Json | None) -> Json:
    """Return the normaliser with lower-casing prepended, unless it already lower-cases."""
    steps = [normalizer] if normalizer else []
    steps = (normalizer or {}).get("normalizers", steps)
    if normalizer is not None and any(s.get("type") == "Lowercase" or s.get("lowercase") is True for s in steps):
        return normalizer
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}
