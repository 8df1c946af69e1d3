"""Ids of converted tokenizers, each trained on real text, against transformers' on real and hostile strings."""

import functools
import io
import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from conversion.tokenizer import read_tokenizer
from tests.support.checkpoints import write_json
from tests.support.lazy import lazy
from tests.support.real_texts import HOSTILE, real_texts
from tests.support.tiers import fast_where
from tsjax.text.tokenizer import TextTokenizer

Transformer = lazy("sentence_transformers.sentence_transformer.modules", "Transformer")
AutoTokenizer, BertConfig, BertModel = lazy("transformers", "AutoTokenizer", "BertConfig", "BertModel")
sentencepiece = lazy("sentencepiece")

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MPNET_TOKENS = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EXTRA = ("<extra_id_0>", "<extra_id_99>", "<s>NOTUSED", "[unused1]", "<cls>", "<bos>", "<eos>", "zebra crossing")
SPECIAL = tuple(dict.fromkeys((*BERT_TOKENS, *MPNET_TOKENS, *ROBERTA_TOKENS, *QWEN_TOKENS, *EXTRA)))
LETTERS = (
    "\u0301\u0308\u0327\u0345\u093c\u3099\u20dd\u0e33"  # combining marks
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\ufe0f\u180e"  # invisible characters
    "\u200e\u200f\u202e\u2066\u2069אבגدرسﷺ"  # right to left
    "İıẞßΣσςǅﬁ½²Ⅷ㎏ｆＡ①Ωª"  # other cases, other forms
    "한각ᄒ\u1161漢々ゞｶﾞ㍿"
    "\U0001f469\U0001f3fd\U0001f1f3\U0001f1f4\U0001f600\U000e0067\U0001d504\U00020000\U0010ffff"
    "\x00\x01\x1b\x7f\x80\x85\xa0\u2028\u3000\ufffd\ufffe▁Ġ``''##\t\n\r\v\f"
)


def character(rng):
    """Draw any character of any plane but a surrogate; those of plane 0 and the difficult ones more often."""
    if rng.random() < 0.4:
        return rng.choice(LETTERS)
    code = rng.randrange(rng.choice((0x80, 0x800, 0x3100, 0xD800, 0x110000)))
    return chr(code) if not 0xD800 <= code < 0xE000 else "\ue000"


def hostile_texts(rng, count):
    words = " ".join(real_texts(5, 300, seed=1)).split()
    makers = (
        lambda: "".join(character(rng) for _ in range(rng.randrange(1, 40))),
        lambda: " ".join(rng.choice(words) + character(rng) + rng.choice(words) for _ in range(rng.randrange(1, 9))),
        lambda: rng.choice((" ", "", "\n")).join(rng.choice((*SPECIAL, *words[:99])) for _ in range(9)),
        lambda: rng.choice(SPECIAL).swapcase() + character(rng) + rng.choice(SPECIAL),
        lambda: rng.choice(words).upper() * rng.randrange(1, 40) + " " * rng.randrange(9) + rng.choice(words),
    )
    return [rng.choice(makers)() for _ in range(count)]


@functools.cache
def texts():
    rng = random.Random(20)
    found = [*HOSTILE, *real_texts(600, 60), *hostile_texts(rng, 2600)]
    assert len(set(found)) > 3000
    return found


@functools.cache
def corpus():
    return [text for text in real_texts(500, 200, seed=3) if text]


@functools.cache
def wordpiece(specials, lower):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        corpus(), trainers.WordPieceTrainer(vocab_size=2000, special_tokens=list(specials), show_progress=False)
    )
    return tokenizer.to_str()


@functools.cache
def byte_bpe(specials, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = getattr(normalizers, normalizer)()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=2000,
            special_tokens=list(specials),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer.to_str()


@functools.cache
def sentencepiece_model(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, vocab_size=1500, minloglevel=2, num_threads=2, **options
    )
    return model.getvalue()


def with_wordpiece_json(directory, specials=BERT_TOKENS, lower=True, added=(), mask_flags=None):
    tokenizer = Tokenizer.from_str(wordpiece(specials, lower))
    tokenizer.add_tokens(list(added))
    first, last = ("[CLS]", "[SEP]") if "[CLS]" in specials else ("<s>", "</s>")
    tokenizer.post_processor = template(tokenizer, f"{first} $A {last}", first, last)
    tokenizer.enable_truncation(9)  # Published tokenizers have the truncation with which they were saved.
    tokenizer.enable_padding(length=9)
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token.update(mask_flags or {} if "mask" in token["content"].lower() else {})
    write_json(directory / "tokenizer.json", content)


def with_vocab_txt(directory, specials=BERT_TOKENS, lower=True):
    vocabulary = json.loads(wordpiece(specials, lower))["model"]["vocab"]
    lines = sorted(vocabulary, key=vocabulary.get)
    (directory / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def with_vocab_and_merges(directory, specials=ROBERTA_TOKENS, normalizer=None):
    model = json.loads(byte_bpe(specials, normalizer))["model"]
    write_json(directory / "vocab.json", model["vocab"])
    lines = ["#version: 0.2", *(pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])]
    (directory / "merges.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def with_bpe_json(directory, single, specials, used, normalizer=None, mask=None):
    tokenizer = Tokenizer.from_str(byte_bpe(specials, normalizer))
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template(tokenizer, single, *used)]
    )
    tokenizer.enable_truncation(11)
    tokenizer.enable_padding(direction="left")
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["lstrip"] = token["content"] == mask
    write_json(directory / "tokenizer.json", content)


def template(tokenizer, single, *specials):
    named = [(name, tokenizer.token_to_id(name)) for name in specials]
    return processors.TemplateProcessing(single=single, special_tokens=named)


def with_spm(directory, file, **options):
    (directory / file).write_bytes(sentencepiece_model(**options))


def with_saved(directory, writer, **keywords):
    """Write what ``save_pretrained`` makes of a tokenizer, without the files that it was made from."""
    writer(directory, **keywords)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for file in directory.iterdir():
        if file.name not in ("config.json", "tokenizer_config.json"):
            file.unlink()
    config = (directory / "tokenizer_config.json").read_bytes()
    tokenizer.save_pretrained(directory)
    (directory / "tokenizer_config.json").write_bytes(config)
    assert {file.name for file in directory.iterdir()} == {"config.json", "tokenizer_config.json", "tokenizer.json"}


XLMR = {"file": "sentencepiece.bpe.model"}
T5 = {"file": "spiece.model", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT = {
    "file": "spiece.model",
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "control_symbols": "[CLS],[SEP],[MASK]",
    "user_defined_symbols": '(,),",-',
}
GEMMA = {
    "file": "tokenizer.model",
    "model_type": "bpe",
    "byte_fallback": True,
    "user_defined_symbols": "<mask>",
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
}
QWEN = {
    "tokenizer_class": "Qwen2Tokenizer",
    "padding_side": "left",
    "model_max_length": 131072,
    "add_bos_token": False,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}
PLAIN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
ADDED = {
    "2000": {**PLAIN, "content": "zebra crossing", "special": False, "normalized": True},
    "2001": {**PLAIN, "content": "[unused1]", "rstrip": True},
}
NAMED = {"added_tokens_decoder": {**{str(i): {**PLAIN, "content": x} for i, x in enumerate(BERT_TOKENS)}, **ADDED}}
MASK = {"mask_token": {**PLAIN, "content": "[MASK]", "lstrip": True, "__type": "AddedToken"}}
SINGLE = {"added_tokens_decoder": {"4": {**PLAIN, "content": "[MASK]", "single_word": True}}}
NORMALIZED = {"added_tokens_decoder": {"4": {**PLAIN, "content": "[MASK]", "normalized": True}}}
BOTH_ENDS = {"single": "<s> $A </s>", "specials": ROBERTA_TOKENS, "used": ("<s>", "</s>"), "mask": "<mask>"}
ONE_END = {"single": "$A <|endoftext|>", "specials": QWEN_TOKENS, "used": QWEN_TOKENS[:1], "normalizer": "NFC"}
CAMEMBERT = {"tokenizer_class": "CamembertTokenizer", "additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED"]}
CASED_ALBERT = {"do_lower_case": False, "keep_accents": True}


def kind(name, model_type, config, writer, /, **keywords):
    return pytest.param(model_type, config, functools.partial(writer, **keywords), id=name)


KINDS = [
    kind("bert", "bert", {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, with_wordpiece_json),
    kind("bert-cased", "bert", {"do_lower_case": False}, with_wordpiece_json, lower=False),
    kind("bert-flags", "bert", {"do_lower_case": False, "strip_accents": True}, with_wordpiece_json),
    kind("bert-added", "bert", NAMED, with_wordpiece_json),
    kind("bert-added-in-json", "bert", {}, with_wordpiece_json, added=("zebra crossing", "<cls>", "the")),
    kind("bert-mask", "bert", MASK, with_wordpiece_json),
    kind("bert-mask-in-json", "bert", {}, with_wordpiece_json, mask_flags={"lstrip": True}),
    kind("bert-single-word-mask", "bert", {}, with_wordpiece_json, mask_flags={"single_word": True}),
    kind("bert-single-word", "bert", SINGLE, with_wordpiece_json),
    kind("bert-normalized", "bert", NORMALIZED, with_wordpiece_json),
    kind("bert-normalized-mask", "bert", {}, with_wordpiece_json, mask_flags={"normalized": True}),
    kind("bert-vocab.txt", "bert", {"do_lower_case": True}, with_vocab_txt),
    kind("bert-cased-vocab.txt", "bert", {"do_lower_case": False}, with_vocab_txt, lower=False),
    kind("bert-added-vocab.txt", "bert", NAMED, with_vocab_txt),
    kind("bert-of-another-type", "modernbert", {"tokenizer_class": "BertTokenizer"}, with_wordpiece_json, lower=False),
    kind("distilbert", "distilbert", {"do_lower_case": True}, with_wordpiece_json),
    kind("distilbert-vocab.txt", "distilbert", {"do_lower_case": False}, with_vocab_txt, lower=False),
    kind("electra-vocab.txt", "electra", {"tokenizer_class": "ElectraTokenizer"}, with_vocab_txt),
    kind("nomic", "nomic_bert", {"tokenizer_class": "BertTokenizer"}, with_wordpiece_json),
    kind("mpnet", "mpnet", {"tokenizer_class": "MPNetTokenizer"}, with_wordpiece_json, specials=MPNET_TOKENS),
    kind("mpnet-vocab.txt", "mpnet", {"do_lower_case": True}, with_vocab_txt, specials=MPNET_TOKENS),
    kind("roberta", "roberta", {"tokenizer_class": "RobertaTokenizer"}, with_bpe_json, **BOTH_ENDS),
    kind("roberta-saved", "roberta", {}, with_saved, writer=with_vocab_and_merges),
    kind("roberta-merges.txt", "roberta", {}, with_vocab_and_merges),
    kind("roberta-prefix-space", "roberta", {"add_prefix_space": True}, with_vocab_and_merges),
    kind("modernbert", "modernbert", FAST, with_bpe_json, **BOTH_ENDS),
    kind("eurobert", "eurobert", FAST, with_bpe_json, **BOTH_ENDS),
    kind("qwen", "qwen3", QWEN, with_bpe_json, **ONE_END),
    kind("qwen-merges.txt", "qwen3", QWEN, with_vocab_and_merges, specials=QWEN_TOKENS, normalizer="NFC"),
    kind("gemma", "gemma3_text", {"add_eos_token": True}, with_saved, writer=with_spm, **GEMMA),
    kind("gemma-tokenizer.model", "gemma3_text", {"add_bos_token": True, "add_eos_token": True}, with_spm, **GEMMA),
    kind("xlm-roberta", "xlm-roberta", {}, with_saved, writer=with_spm, **XLMR),
    kind("xlm-roberta-model", "xlm-roberta", {"tokenizer_class": "XLMRobertaTokenizer"}, with_spm, **XLMR),
    kind("e5", "bert", {"tokenizer_class": "XLMRobertaTokenizer"}, with_spm, **XLMR),
    kind("gte", "new", {"tokenizer_class": "XLMRobertaTokenizerFast"}, with_spm, **XLMR),
    kind("camembert", "camembert", CAMEMBERT, with_saved, writer=with_spm, **XLMR),
    kind("camembert-model", "camembert", {}, with_spm, **XLMR),
    kind("t5", "t5", {"extra_ids": 100}, with_saved, writer=with_spm, **T5),
    kind("t5-spiece.model", "t5", {"tokenizer_class": "T5Tokenizer"}, with_spm, **T5),
    kind("t5-few-extra", "t5", {"extra_ids": 3}, with_spm, **T5),
    kind("mt5-spiece.model", "mt5", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}, with_spm, **T5),
    kind("albert", "albert", {}, with_saved, writer=with_spm, **ALBERT),
    kind("albert-spiece.model", "albert", {"do_lower_case": True}, with_spm, **ALBERT),
    kind("albert-cased-spiece.model", "albert", CASED_ALBERT, with_spm, **ALBERT),
]


def written(directory, model_type, config, writer):
    remote = {"auto_map": {"AutoConfig": "code.Config"}} if model_type == "new" else {}
    write_json(directory / "config.json", {"model_type": model_type, **remote})
    write_json(directory / "tokenizer_config.json", {"model_max_length": 512, **config})
    writer(directory)
    return json.loads((directory / "config.json").read_text())


@pytest.mark.parametrize("every", fast_where((6).__eq__, [6, 1]))
@pytest.mark.parametrize(("model_type", "config", "writer"), KINDS)
def test_ids(tmp_path, model_type, config, writer, every):
    model_config = written(tmp_path, model_type, config, writer)
    found = read_tokenizer(tmp_path, model_config, lower_case=False)
    original = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    for max_length, given in ((600, texts()[::every]), (13, texts()[::8])):
        expected = original(given, truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]
        check(given, TextTokenizer(found.json, max_length).encode(given).ids, expected)
        # Tokenizers that give only unknown words would be equal, too.
        assert len({token for row in expected for token in row}) > 400
    assert found.model_max_length == config.get("model_max_length", 512)


def check(given, ids, expected):
    for text, ours, theirs in zip(given, ids, expected, strict=True):
        assert ours.tolist() == theirs, repr(text)


@pytest.mark.parametrize(
    ("config", "writer"),
    [
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": False}, with_wordpiece_json),
        ({"tokenizer_class": "BertTokenizer", "strip_accents": False}, with_wordpiece_json),
        ({"tokenizer_class": "MPNetTokenizer"}, functools.partial(with_vocab_txt, specials=MPNET_TOKENS)),
        ({"tokenizer_class": "RobertaTokenizer"}, with_vocab_and_merges),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, functools.partial(with_spm, **XLMR)),
        ({"tokenizer_class": "AlbertTokenizer", "do_lower_case": False}, functools.partial(with_spm, **ALBERT)),
        ({"tokenizer_class": "AlbertTokenizer"}, functools.partial(with_spm, **ALBERT)),
    ],
)
def test_lower_case_of_sentence_transformers(tmp_path, config, writer):
    model_config = written(tmp_path, "bert", config, writer)
    shape = BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    BertModel(shape).save_pretrained(tmp_path)  # sentence-transformers reads no tokenizer alone
    original = Transformer(str(tmp_path), do_lower_case=True, max_seq_length=50).tokenizer
    found = read_tokenizer(tmp_path, model_config, lower_case=True)
    given = texts()[::3]
    expected = original(given, truncation=True, max_length=50)["input_ids"]
    check(given, TextTokenizer(found.json, 50).encode(given).ids, expected)
