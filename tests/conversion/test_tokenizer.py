import json

import pytest
from checkpoints import tokenizer_json, write_json
from tokenizers import Tokenizer

from conversion.tokenizer import read_tokenizer
from tsjax.errors import ConversionError

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
        # A class that takes tokenizer.json as it is does not read the flag.
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
    ("said", "expected"), [(512, 512), (512.0, 512), (10**30, None), (1e30, None), (None, None), ("x", None)]
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


@pytest.mark.parametrize(
    "change", [{"truncation_side": "left"}, {"padding_side": "left"}, {"split_special_tokens": True}]
)
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
