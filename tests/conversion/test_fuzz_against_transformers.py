"""Random changes to the JSON files of a checkpoint: tsjax reads the same values as transformers."""

import dataclasses
import itertools
import json

import pytest

from conversion.families import FAMILIES, family_of
from conversion.fields import Fields
from conversion.tokenizer import read_tokenizer
from tests.support.checkpoints import tokenizer_json, write_json
from tests.support.fuzzing import Fuzzer
from tests.support.lazy import lazy
from tsjax.errors import TsjaxError
from tsjax.text.tokenizer import TextTokenizer

AutoConfig, AutoTokenizer = lazy("transformers", "AutoConfig", "AutoTokenizer")

SIZES = {
    "vocab_size": 101,
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 50,
    "max_position_embeddings": 83,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 10}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
T5 = {"vocab_size": 101, "d_model": 36, "d_kv": 7, "d_ff": 50, "num_layers": 3, "num_heads": 5}
CONFIGS = {
    "bert": {**SIZES, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    "roberta": {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1},
    "distilbert": {"vocab_size": 101, "dim": 36, "n_layers": 3, "n_heads": 3, "hidden_dim": 50, "activation": "relu"},
    "mpnet": {**SIZES, "relative_attention_num_buckets": 32},
    "electra": {**SIZES, "embedding_size": 20},
    "albert": {**SIZES, "embedding_size": 20, "num_hidden_groups": 1},
    "t5": {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "mt5": {**T5, "is_gated_act": True, "dense_act_fn": "gelu_new"},
    "modernbert": {
        **SIZES,
        "local_attention": 14,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 9000.0,
        "local_rope_theta": 700.0,
        "rope_parameters": {"full_attention": {"rope_type": "default"}},
    },
    "nomic_bert": {**SIZES, "rope_parameters": LINEAR, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "gte": {**SIZES, "rope_theta": 7.0, "rope_parameters": LINEAR},
    "jina_embeddings_v3": {**SIZES, "rope_theta": 7.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    "eurobert": {**GROUPED, "rope_parameters": {"rope_type": "default", "rope_theta": 9.0}, "mask_token_id": 4},
    "qwen3": {**GROUPED, "use_sliding_window": False, "max_window_layers": 2, "rope_parameters": LINEAR},
    "gemma3_text": {
        **GROUPED,
        "use_bidirectional_attention": True,
        "sliding_window": 14,
        "query_pre_attn_scalar": 13,
        "sliding_window_pattern": 2,
        "rope_theta": 9000.0,
        "rope_local_base_freq": 700.0,
    },
}


def architecture(config):
    found = family_of(config, "config.json").translate(Fields(config, "config.json"))
    # If these fields are missing, transformers writes the values that they follow from.
    return dataclasses.replace(found, head_size=found.head_dim, num_key_value_heads=found.key_value_heads)


def as_transformers_has_it(directory):
    """Return config.json as transformers writes it after reading it."""
    return json.loads(AutoConfig.from_pretrained(directory).to_json_string(use_diff=False))


def test_every_family_of_transformers_is_here():
    assert set(CONFIGS) >= {family.model_type for family in FAMILIES if family.exportable} - {
        "camembert",
        "xlm-roberta",
    }


@pytest.mark.slow
@pytest.mark.parametrize("model_type", CONFIGS)
def test_config(tmp_path, model_type):
    write_json(tmp_path / "config.json", {"model_type": model_type, **CONFIGS[model_type]})
    compared = 0
    for what in itertools.islice(Fuzzer(tmp_path, ["config.json"], seed=model_type), 200):
        try:
            ours = architecture(json.loads((tmp_path / "config.json").read_text()))
        except (TsjaxError, AttributeError):  # not even an object
            continue
        try:
            theirs = architecture(as_transformers_has_it(tmp_path))
        # transformers raises many kinds of errors: it cannot read the file, or it has read what tsjax refuses
        except Exception:
            continue
        compared += 1
        assert theirs == ours, what
    assert compared > 9


TEXTS = [
    "The cat, café at THIS one \u4e00 [MASK] x",
    "",
    "a  [UNK]\u00adB [mask] the[SEP]",
    "\x00zz the.",
    "##e [CLS] [PAD]",
]
FILES = ("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "tokenizer_config.json")


@pytest.mark.slow
@pytest.mark.parametrize("named", ["config", "decoder"])
@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_tokenizer(tmp_path, kind, named):
    config = {"model_type": "bert"}
    write_json(tmp_path / "config.json", config)
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "PAD", "UNK", "MASK")}
    write_json(tmp_path / "special_tokens_map.json", {**names, "mask_token": {"content": "[MASK]", "lstrip": False}})
    write_json(tmp_path / "added_tokens.json", {"[MASK]": 4})
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    decoder = {str(i): {**flags, "content": f"[{name}]"} for i, name in enumerate(("PAD", "UNK", "CLS", "SEP", "MASK"))}
    more = {"added_tokens_decoder": decoder} if named == "decoder" else {"additional_special_tokens": ["the"]}
    options = {"do_lower_case": True, "strip_accents": None, "model_max_length": 20, "max_len": 9, "bos_token": "[CLS]"}
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": kind, **names, **options, **more})
    compared = 0
    files = [*FILES, "special_tokens_map.json", "added_tokens.json"]
    for what in itertools.islice(Fuzzer(tmp_path, files, seed=kind + named), 250):
        try:
            found = read_tokenizer(tmp_path, config, lower_case=False)
            ours = TextTokenizer(found.json, 10_000).encode(TEXTS)
        except TsjaxError:
            continue
        try:
            original = AutoTokenizer.from_pretrained(tmp_path)
            theirs = original(TEXTS, return_token_type_ids=True)
        except Exception:  # transformers raises many kinds of errors: it cannot read the file
            continue
        compared += 1
        assert [row.tolist() for row in ours.ids] == theirs["input_ids"], what
        assert found.token_types == ("token_type_ids" in original.model_input_names), what
        longest = original.model_max_length
        assert (found.model_max_length or 10**30) == (longest if longest < 1e9 else 10**30), what
    assert compared > 40
