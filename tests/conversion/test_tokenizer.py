import json
import re
import sys

import pytest
from tokenizers import Tokenizer

from conversion.tokenizer import read_tokenizer
from tests.support.checkpoints import tokenizer_json, write_json
from tsjax.errors import ConversionError, MissingExtraError

BERT = {"model_type": "bert"}


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(lowercase=True), encoding="utf-8")
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    return tmp_path


def tokens(directory, text, lower_case=False):
    found = read_tokenizer(directory, BERT, lower_case=lower_case)
    return Tokenizer.from_str(found.json).encode(text).tokens[1:-1]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": True}, ["the"]),
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": False}, ["[UNK]"]),
        ({"tokenizer_class": "BertTokenizerFast", "do_lower_case": False}, ["[UNK]"]),
        ({"do_lower_case": False}, ["[UNK]"]),
        ({"tokenizer_class": "BertTokenizer"}, ["the"]),
        ({}, ["the"]),
        # A class that takes tokenizer.json unchanged does not read the flag.
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, ["the"]),
    ],
)
def test_the_config_of_a_bert_tokenizer_wins(directory, config, expected):
    write_json(directory / "tokenizer_config.json", config)
    assert tokens(directory, "THE") == expected


def test_other_flags_of_the_normaliser(directory):
    write_json(directory / "tokenizer_config.json", {"strip_accents": False, "tokenize_chinese_chars": False})
    normalizer = json.loads(read_tokenizer(directory, BERT, lower_case=False).json)["normalizer"]
    assert normalizer["strip_accents"] is False
    assert normalizer["handle_chinese_chars"] is False


def test_padding_and_truncation_are_dropped(directory):
    content = json.loads(read_tokenizer(directory, BERT, lower_case=False).json)
    assert content["padding"] is None
    assert content["truncation"] is None


@pytest.mark.parametrize(
    ("said", "expected"), [(512, 512), (512.0, 512), (10**30, None), (1e30, None), (None, None), (float("inf"), None)]
)
def test_the_longest_text(directory, said, expected):
    write_json(directory / "tokenizer_config.json", {"model_max_length": said})
    assert read_tokenizer(directory, BERT, lower_case=False).model_max_length == expected


def test_only_a_vocabulary_goes_through_transformers(tmp_path):
    vocabulary = json.loads(tokenizer_json())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    text = "The cat, at THIS one."
    found = Tokenizer.from_str(read_tokenizer(tmp_path, BERT, lower_case=False).json).encode(text).ids
    expected = Tokenizer.from_str(tokenizer_json())
    expected.no_truncation()
    expected.no_padding()
    assert found == expected.encode(text).ids


def test_no_tokenizer_at_all(tmp_path):
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(ConversionError, match="holds no tokenizer"):
        read_tokenizer(tmp_path, BERT, lower_case=False)


def test_a_class_that_does_not_read_the_vocabulary_there_is(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n", encoding="utf-8")
    write_json(tmp_path / "config.json", {"model_type": "roberta"})
    with pytest.raises(ConversionError, match="vocab.txt, but its RobertaTokenizer reads vocab.json and merges.txt"):
        read_tokenizer(tmp_path, {"model_type": "roberta"}, lower_case=False)


def test_merges_would_be_guessed(tmp_path):
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 1, "ab": 2})
    write_json(tmp_path / "config.json", {"model_type": "roberta"})
    with pytest.raises(ConversionError, match="none of .*vocab.json with merges.txt"):
        read_tokenizer(tmp_path, {"model_type": "roberta"}, lower_case=False)


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_a_sentencepiece_model_without_what_reads_it(tmp_path, monkeypatch, package):
    (tmp_path / "spiece.model").write_bytes(b"\n\x05")
    write_json(tmp_path / "config.json", {"model_type": "t5"})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"only spiece.model.* pip install 'tsjax\[sentencepiece\]'"):
        read_tokenizer(tmp_path, {"model_type": "t5"}, lower_case=False)


def test_a_damaged_sentencepiece_model(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"nothing")
    write_json(tmp_path / "config.json", {"model_type": "t5"})
    with pytest.raises((ConversionError, MissingExtraError), match=re.escape(str(tmp_path))):
        read_tokenizer(tmp_path, {"model_type": "t5"}, lower_case=False)


def test_code_of_the_checkpoint_is_neither_run_nor_asked_about(directory, monkeypatch):
    monkeypatch.setattr("builtins.input", None)
    remote = {"model_type": "new", "auto_map": {"AutoConfig": "code.Config"}}
    write_json(directory / "config.json", remote)
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    (directory / "code.py").write_text("raise SystemExit", encoding="utf-8")
    found = read_tokenizer(directory, remote, lower_case=False)
    assert Tokenizer.from_str(found.json).encode("THE").tokens[1:-1] == ["the"]


def test_truncation_on_the_left_in_tokenizer_json(directory):
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.enable_truncation(7, direction="left")
    tokenizer.save(str(directory / "tokenizer.json"))
    with pytest.raises(ConversionError, match="truncation on the left"):
        read_tokenizer(directory, BERT, lower_case=False)


def test_the_side_of_the_padding_is_not_asked(directory):
    write_json(directory / "tokenizer_config.json", {"padding_side": "left"})
    assert tokens(directory, "THE") == ["the"]


@pytest.mark.parametrize("change", [{"truncation_side": "left"}, {"split_special_tokens": True}])
def test_what_would_give_other_ids_is_refused(directory, change):
    write_json(directory / "tokenizer_config.json", change)
    with pytest.raises(ConversionError, match=next(iter(change))):
        read_tokenizer(directory, BERT, lower_case=False)


@pytest.mark.parametrize(
    "config",
    [
        {"additional_special_tokens": ["zz"]},
        {"extra_special_tokens": ["zz"]},
        {"unk_token": "[PAD]"},
        {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
    ],
)
@pytest.mark.parametrize("text", ["The zz at THIS, xyz \u4e00", ""])
def test_what_is_not_plain_is_left_to_transformers(directory, config, text):
    from transformers import AutoTokenizer

    write_json(directory / "tokenizer_config.json", config)
    expected = AutoTokenizer.from_pretrained(str(directory))(text)["input_ids"]
    found = Tokenizer.from_str(read_tokenizer(directory, BERT, lower_case=False).json)
    assert found.encode(text).ids == expected


def test_a_plain_one_is_not(directory, monkeypatch):
    monkeypatch.setattr("conversion.tokenizer._through_transformers", None)
    for config in ({}, {"tokenizer_class": "BertTokenizer", "cls_token": {"content": "[CLS]"}}):
        write_json(directory / "tokenizer_config.json", config)
        assert tokens(directory, "THE") == ["the"]


# -- strictness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vocab", "do_word_tokenize", "mecab_kwargs", "post_processor"])
def test_an_unknown_field_is_refused_by_name(directory, name):
    write_json(directory / "tokenizer_config.json", {name: "x"})
    with pytest.raises(ConversionError, match=name):
        read_tokenizer(directory, BERT, lower_case=False)
    assert read_tokenizer(directory, BERT, lower_case=False, ignore=[name]).model_max_length is None


@pytest.mark.parametrize(
    "config",
    [
        {"do_lower_case": "yes"},
        {"model_max_length": "512"},
        {"model_max_length": 0},
        {"model_max_length": 12.5},
        {"max_len": -1},
        {"cls_token": 2},
        {"added_tokens_decoder": []},
        {"additional_special_tokens": "[X]"},
        {"model_input_names": ["input_ids"]},
        {"init_inputs": ["vocab.txt"]},
        {"chat_template": 1},
    ],
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_wrong_values_are_refused(directory, config, kind):
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": kind, **config})
    with pytest.raises(ConversionError, match=next(iter(config))):
        read_tokenizer(directory, BERT, lower_case=False)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_len": 16}, 16),
        ({"max_len": 16, "model_max_length": 20}, 20),
        ({"max_len": 16, "model_max_length": None}, None),
    ],
)
def test_the_old_name_of_the_longest_text(directory, config, longest):
    write_json(directory / "tokenizer_config.json", config)
    assert read_tokenizer(directory, BERT, lower_case=False).model_max_length == longest


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, "[MASK]"), ({"cls_token": "[CLS]"}, "[MASK]"), ({"added_tokens_decoder": {}, "cls_token": "[CLS]"}, "[CLS]")],
)
def test_the_older_map_of_special_tokens_wins_unless_the_config_lists_all(directory, config, expected):
    from transformers import AutoTokenizer

    write_json(directory / "special_tokens_map.json", {"cls_token": "[MASK]"})
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **config})
    found = Tokenizer.from_str(read_tokenizer(directory, BERT, lower_case=False).json).encode("the")
    assert found.tokens[0] == expected
    assert found.ids == AutoTokenizer.from_pretrained(directory)("the")["input_ids"]


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"]
)
def test_a_chat_template(directory, file):
    path = directory / file
    path.parent.mkdir(exist_ok=True)
    if file.endswith(".json"):
        write_json(path, {"chat_template": "{{ messages }}"})
    else:
        path.write_text("{{ messages }}")
    read_tokenizer(directory, BERT, lower_case=False)  # modules.json is there and does not ask for it
    with pytest.raises(ConversionError, match="chat_template"):
        read_tokenizer(directory, BERT, lower_case=False, chats=True)
    read_tokenizer(directory, BERT, lower_case=False, chats=True, ignore=["chat_template"])


@pytest.mark.parametrize(
    "token", [7, None, {"content": 7}, {"content": "x", "bold": True}, {"content": "x", "lstrip": "no"}, {}]
)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_odd_added_tokens_are_refused(directory, file, token, capfd):
    if file == "tokenizer.json":
        content = json.loads(tokenizer_json())
        content["added_tokens"].append({"id": 200, **token} if isinstance(token, dict) else token)
        write_json(directory / file, content)
    else:
        write_json(directory / file, {"additional_special_tokens": [token]})
    with pytest.raises(ConversionError, match=file):
        read_tokenizer(directory, BERT, lower_case=False)
    assert capfd.readouterr().out == ""  # transformers names the flag that it does not know


def changed(directory, change):
    content = json.loads(tokenizer_json())
    change(content)
    write_json(directory / "tokenizer.json", content)
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def test_a_token_that_is_added_twice_is_refused(directory):
    changed(directory, lambda content: content["added_tokens"].append({**content["added_tokens"][0], "id": 99}))
    with pytest.raises(ConversionError, match="added twice"):
        read_tokenizer(directory, BERT, lower_case=False)


def test_two_tokens_of_one_id_are_refused(directory):
    changed(directory, lambda content: content["model"]["vocab"].update(a=9))
    with pytest.raises(ConversionError, match="same id 9"):
        read_tokenizer(directory, BERT, lower_case=False)


def test_a_template_with_a_token_that_has_no_id_is_refused(directory, capfd):
    changed(directory, lambda content: content["post_processor"]["special_tokens"].pop("[SEP]"))
    with pytest.raises(ConversionError, match=r"\[SEP\]"):
        read_tokenizer(directory, BERT, lower_case=False)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_whether_the_model_is_told_segments(directory, names):
    for kind in ("BertTokenizer", "PreTrainedTokenizerFast"):
        write_json(directory / "tokenizer_config.json", {"tokenizer_class": kind, "model_input_names": names})
        found = read_tokenizer(directory, BERT, lower_case=False)
        assert found.token_types == ("token_type_ids" in names)


def test_a_plain_one_is_built_as_its_class_does(directory):
    """The class of BERT's tokenizers does not read the other parts of tokenizer.json."""
    content = json.loads(tokenizer_json())
    content["model"] |= {"continuing_subword_prefix": "@@", "max_input_chars_per_word": 2, "unk_token": "[PAD]"}
    content["post_processor"]["single"][1]["Sequence"]["type_id"] = 1
    content["pre_tokenizer"] = {"type": "Whitespace"}
    write_json(directory / "tokenizer.json", content)
    expected = Tokenizer.from_str(tokenizer_json())
    expected.no_truncation()
    expected.no_padding()
    found = Tokenizer.from_str(read_tokenizer(directory, BERT, lower_case=False).json)
    for pair in (["The cat, at THIS one."], ["xyz", "a \u4e00"]):
        ours, theirs = found.encode(*pair), expected.encode(*pair)
        assert (ours.ids, ours.type_ids) == (theirs.ids, theirs.type_ids)
