"""Files that state one thing twice, and limits that do not limit: vectors against those of sentence-transformers."""

import json

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import WORDS, write_json
from tests.support.families import CASES
from tests.support.lazy import lazy

SentenceTransformer = lazy("sentence_transformers", "SentenceTransformer")

TEXTS = ["the cat", "it was", WORDS]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tsjax.TruncationWarning")]


def changed(file, **fields):
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_json(file, {**content, **fields})


def with_modules(path, width=36, **transformer):
    types = ("Transformer", "Pooling")
    listed = [
        {"idx": i, "name": str(i), "path": ["", "1_Pooling"][i], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(types)
    ]
    write_json(path / "modules.json", listed)
    write_json(path / "1_Pooling" / "config.json", {"embedding_dimension": width, "pooling_mode": "mean"})
    write_json(path / "sentence_bert_config.json", {"do_lower_case": False, **transformer})
    return path


def check(path, texts=TEXTS):
    theirs = SentenceTransformer(str(path), device="cpu").encode(texts)
    embedder = tsjax.load(path)
    np.testing.assert_allclose(embedder.encode(texts), theirs, atol=2e-5)
    return embedder


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Qwen3-Embedding", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ("EuroBERT", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 50.0}),
        ("NomicBert", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ("GTE", {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}}),
        ("Jina v3", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 50.0}),
        ("ModernBERT", {"sliding_window": 2}),
        ("EmbeddingGemma", {"_sliding_window_pattern": 2, "rope_theta": 50.0}),
        ("DistilBERT", {"num_attention_heads": 2}),
    ],
)
def test_config(tmp_path, name, fields):
    CASES[name].save(tmp_path)
    changed(tmp_path / "config.json", **fields)
    check(with_modules(tmp_path, max_seq_length=40))


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("special_tokens_map.json", {"cls_token": "[MASK]"}),
        ("special_tokens_map.json", {"unk_token": "the", "sep_token": {"content": "[PAD]", "lstrip": False}}),
        ("tokenizer_config.json", {"max_len": 9}),
        ("tokenizer_config.json", {"max_len": 9, "model_max_length": 12}),
    ],
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_tokenizer(tmp_path, file, fields, kind):
    CASES["BERT"].save(tmp_path, tokenizer=kind)
    changed(tmp_path / file, **fields)
    check(with_modules(tmp_path))


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_segments_of_a_single_text(tmp_path, names):
    CASES["BERT"].save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    for step, segment in zip(content["post_processor"]["single"], (0, 1, 1), strict=True):
        next(iter(step.values()))["type_id"] = segment
    write_json(tmp_path / "tokenizer.json", content)
    changed(tmp_path / "tokenizer_config.json", model_input_names=names)
    embedder = check(with_modules(tmp_path, max_seq_length=12))
    assert embedder.metadata.token_types == ("token_type_ids" in names)
    if embedder.metadata.token_types:
        # compiled with segments, as they come
        embedder.warmup(verbose=False)
        before = embedder.statistics.compilations
        embedder.encode(TEXTS)
        assert embedder.statistics.compilations == before


def test_segments_in_a_job(tmp_path):
    from tsjax.jobs.job import Model, Options
    from tsjax.jobs.run.long_texts import Cutter

    test_segments_of_a_single_text(tmp_path / "model", ["input_ids", "token_type_ids", "attention_mask"])
    model = Model.of(tsjax.load(tmp_path / "model"))
    for long_texts in ("cut", "reject", "chunk", "late"):
        found = Cutter(model, Options(long_texts=long_texts)).sequences(["the cat", WORDS]).tokenized
        for ids, types in zip(found.ids, found.type_ids, strict=True):
            assert types.tolist() == [0, *[1] * (len(ids) - 1)]


@pytest.mark.parametrize("name", ["ModernBERT", "NomicBert", "EuroBERT", "Qwen3-Embedding", "EmbeddingGemma"])
def test_rotary_positions_have_no_end(tmp_path, name):
    CASES[name].save(tmp_path)
    changed(tmp_path / "config.json", max_position_embeddings=16)
    text = [WORDS, "the"]
    assert check(with_modules(tmp_path), text).max_seq_length == 16  # No higher limit is asked for.
    embedder = check(with_modules(tmp_path, max_seq_length=30), text)
    assert embedder.max_seq_length == 30
    embedder.max_seq_length = 60
    original = SentenceTransformer(str(tmp_path), device="cpu")
    original.max_seq_length = 60
    np.testing.assert_allclose(embedder.encode(text), original.encode(text), atol=2e-5)


@pytest.mark.parametrize("name", ["BERT", "MPNet", "RoBERTa"])
def test_a_table_of_positions_ends(tmp_path, name):
    CASES[name].save(tmp_path)
    embedder = tsjax.load(with_modules(tmp_path, max_seq_length=500))
    assert embedder.max_seq_length == embedder.metadata.model.encoder.max_length < 84
    with pytest.raises(tsjax.errors.InputError, match="table of positions"):
        embedder.max_seq_length = 500


@pytest.mark.parametrize(("architecture", "mode"), [("Qwen3ForCausalLM", "lasttoken"), ("Qwen3Model", "mean")])
def test_the_pooling_of_a_bare_language_model(tmp_path, architecture, mode):
    CASES["Qwen3-Embedding"].save(tmp_path)
    changed(tmp_path / "config.json", architectures=[architecture])
    assert check(tmp_path).metadata.model.pooling.modes == (mode,)
