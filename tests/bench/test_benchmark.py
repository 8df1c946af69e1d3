"""Tests of what a benchmark measures and counts; no time is asserted."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import tsjax
from tests.support.checkpoints import tokenizer_json, write_bert
from tsjax.bench import machine
from tsjax.bench.benchmark import CompileClock, Figures, compile_clock, measure
from tsjax.bench.operations import matrix_rate, useful_operations
from tsjax.bench.workloads import (
    draw_lengths,
    make_texts,
    needed_length,
    parse_shape,
    random_batch,
    single_token_words,
)
from tsjax.cli.main import main
from tsjax.errors import InputError
from tsjax.model.config import EncoderConfig, HeadConfig, ModelConfig
from tsjax.text.tokenizer import TextTokenizer

BERT = {"vocab_size": 11, "hidden_size": 4, "num_layers": 2, "num_heads": 2, "intermediate_size": 8}


def operations(lengths, heads=(), **fields):
    encoder = EncoderConfig(**{**BERT, "max_positions": 512, **fields})
    return useful_operations(ModelConfig(encoder=encoder, heads=heads), lengths)


# -- the count --------------------------------------------------------------------------------------------------------


def test_operations_of_bert_by_hand():
    # A layer has four matrices of 4 × 4 and two of 4 × 8: 128 entries, two operations each for every token.
    # Attention: for each pair of tokens, two heads of size 2, two products of 2 · 2 operations.
    assert operations([3, 5]) == 2 * (8 * 2 * 128 + (9 + 25) * 2 * 2 * (2 * 2))
    assert operations([]) == 0
    assert operations([3, 0, 5]) == operations([3, 5])


def test_operations_of_bert_by_the_usual_formula():
    width, layers, length = 768, 12, 512
    sizes = {"hidden_size": width, "num_layers": layers, "num_heads": 12, "intermediate_size": 4 * width}
    assert operations([length] * 3, **sizes) == 3 * length * layers * (24 * width**2 + 4 * length * width)


def test_operations_of_a_gated_model_with_few_key_value_heads_by_hand():
    fields = {"num_heads": 4, "num_key_value_heads": 2, "head_size": 3, "feed_forward": "gated"}
    # Query and out 4 × 12 each, key and value 4 × 6 each, three of 4 × 8.
    entries = 2 * 4 * 12 + 2 * 4 * 6 + 3 * 4 * 8
    assert operations([7], **fields) == 2 * (7 * 2 * entries + 49 * 4 * 3 * 4)


def test_operations_of_embedding_projection_and_heads():
    heads = (
        HeadConfig(kind="dense", in_features=4, out_features=6, residual=True),
        HeadConfig(kind="dense", in_features=6, out_features=6, residual=True),
        HeadConfig(kind="normalize", in_features=6, out_features=6),
    )
    added = 8 * 2 * 3 * 4 + 2 * (2 * (2 * 4 * 6) + 2 * 6 * 6)
    assert operations([3, 5], heads, embedding_size=3) == operations([3, 5]) + added


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 1, 3, 50])
def test_only_pairs_that_are_seen_count(window, causal):
    lengths = [1, 2, 4, 9]
    distances = [np.subtract.outer(np.arange(n), np.arange(n)) for n in lengths]
    seen = sum(int(((abs(d) <= window) & (~np.bool_(causal) | (d >= 0))).sum()) for d in distances)
    everything = sum(int((~np.bool_(causal) | (d >= 0)).sum()) for d in distances)
    linear = operations(lengths) - 2 * sum(n * n for n in lengths) * 16
    found = operations(lengths, local_layers=(1,), local_window=window, causal=causal)
    assert found == linear + 16 * (seen + everything)


def test_operations_do_not_overflow():
    assert operations([8192] * 1_000_000) > 2**50
    assert isinstance(operations(np.array([8192] * 3, np.int32)), int)


# -- workloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "low", "high"), [("10", 8, 12), ("139", 111, 167), ("304", 243, 365), ("mixed", 10, 512)]
)
def test_lengths_are_what_the_name_says(name, low, high):
    lengths = draw_lengths(name, 50_000, 512)
    assert low <= lengths.min() <= low * 1.1
    assert high * 0.9 <= lengths.max() <= high
    assert 50_000 <= lengths.sum() < 50_000 + high
    np.testing.assert_array_equal(lengths, draw_lengths(name, 50_000, 512))
    assert draw_lengths(name, 5_000, 100).max() <= 100
    assert len(draw_lengths(name, 1, 512)) == 1


def test_mixed_lengths_are_log_uniform():
    logs = np.log(draw_lengths("mixed", 1_000_000, 512))
    shares, _ = np.histogram(logs, bins=np.log([10, 23.9, 71.6, 171.1, 513]))
    np.testing.assert_allclose(shares / len(logs), [0.22, 0.28, 0.22, 0.28], atol=0.02)


@pytest.mark.parametrize("name", ["", "x", "0", "-3", "32x", "32x0", "1x2x3", "10.5", "mixed2"])
def test_a_name_that_means_nothing_is_refused(name):
    with pytest.raises(InputError, match="there is no workload"):
        parse_shape(name)


def test_names():
    assert parse_shape("32x128") == (32, 128)
    assert parse_shape("139") is None
    assert [needed_length(name) for name in ("8x512", "139", "mixed")] == [512, 139, 10]


@pytest.mark.slow
def test_texts_have_exactly_the_tokens_asked_for(minilm):
    tokenizer = minilm._tokenizer.with_max_length(512)
    lengths = draw_lengths("mixed", 20_000, 512)
    texts = make_texts(tokenizer, lengths)
    np.testing.assert_array_equal(tokenizer.encode(texts).lengths, lengths)
    assert len(set(texts)) == len(texts)
    assert texts == make_texts(tokenizer, lengths)
    assert len(single_token_words(tokenizer)) == 2000


def test_texts_of_a_tiny_vocabulary():
    tokenizer = TextTokenizer(tokenizer_json(), 60)
    lengths = np.arange(1, 61)
    found = tokenizer.encode(make_texts(tokenizer, lengths)).lengths
    np.testing.assert_array_equal(found, np.maximum(lengths, 2))  # [CLS] and [SEP] are always there.


def test_without_single_token_words_texts_are_as_long_as_fits():
    tokenizer = Tokenizer(models.BPE({x: i for i, x in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = TextTokenizer(tokenizer.to_str(), 100)
    assert single_token_words(letters) == []
    lengths = np.arange(5, 101)
    tokenized = letters.encode(make_texts(letters, lengths))
    assert not tokenized.truncated.any()
    assert (tokenized.lengths <= lengths).all()
    assert (tokenized.lengths >= lengths - 5).all()


def test_a_batch_of_random_ids():
    batch = random_batch(3, 7, 11)
    assert [len(ids) for ids in batch.ids] == [7] * 3
    assert 0 <= np.min(batch.ids) <= np.max(batch.ids) < 11
    assert not batch.truncated.any()


# -- measuring --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_bert(tmp_path_factory.mktemp("model") / "source", max_position_embeddings=100))


@pytest.mark.slow
def test_figures_are_those_of_one_pass(model):
    embedder = tsjax.load(model)
    texts = ["the of", "was it " * 30, "he " * 200]
    figures = measure(embedder, "mine", texts, tokens=1, repeats=2)
    assert (figures.texts, figures.tokens, figures.truncated) == (3, 4 + 62 + 100, 1)
    assert len(figures.seconds) == 2
    assert figures.operations == useful_operations(embedder.metadata.model, [4, 62, 100])
    assert 0 < figures.compiled_shapes <= len(embedder.shapes)
    assert figures.compile_seconds > 0
    again = measure(embedder, "mine", texts, tokens=1, repeats=1)
    # The shapes are counted again although they were compiled before.
    assert again.compiled_shapes == figures.compiled_shapes
    assert again.padding_share == pytest.approx(figures.padding_share)


def test_time_that_is_up_ends_the_passes(model):
    assert len(measure(tsjax.load(model), "1x16", tokens=1, repeats=5, seconds=1e-9).seconds) == 1


def test_a_compile_clock_counts_what_overlaps_once():
    clock = CompileClock()
    for start, end in ((10, 12), (0, 4), (1, 2), (3, 5)):
        clock("/jax/core/compile/backend_compile_duration", start, end, fun_name="f")
    clock("/jax/something/else", 0, 100)
    assert clock.seconds == 7


def test_a_compile_clock_stops():
    with compile_clock() as clock:
        jax.jit(lambda x: x * 3 + 1)(np.arange(3))
    seconds = clock.seconds
    assert seconds > 0
    jax.jit(lambda x: x * 5 + 1)(np.arange(3))
    assert clock.seconds == seconds


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_matrix_rate_is_a_rate(dtype):
    config = ModelConfig(encoder=EncoderConfig(**BERT, max_positions=8))
    assert 0 < matrix_rate(config, dtype, 16, seconds=0.01) < 1e15


def test_the_machine():
    about = machine.describe()
    assert about["cpu"]
    assert about["cores"] >= 1
    assert 0.1 < about["memory_gb"] < 1e6
    assert 10**7 < machine.peak_resident() < 10**12
    ours = machine.process_seconds(machine.os.getpid())
    assert 0 < ours < machine.busy_seconds()
    assert machine.process_seconds(2**30) is None


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_prints_a_table_and_writes_json(tmp_path, model, capsys):
    (tmp_path / "mine.jsonl").write_text('{"body": "the of"}\n{"body": "was it"}\n')
    file = tmp_path / "bench.json"
    arguments = ["bench", "--model", model, "--workloads", "10,mixed,texts,3x16", "--tokens", "200", "--repeats", "2"]
    arguments += ["--texts", str(tmp_path / "mine.jsonl"), "--column", "body", "--json", str(file)]
    assert main([*arguments, "--temperature", "0.9"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["workload", "10", "mixed", "texts", "3x16"]
    assert len({len(line) for line in lines[1:]}) == 1, "aligned"
    assert f"wrote {file}" in err
    content = json.loads(file.read_text())
    assert content["temperature"]["value"] == 0.9
    assert content["max_seq_length"] == 100
    assert content["versions"]["jax"] == jax.__version__
    assert content["machine"]["cores"] >= 1
    assert content["matrix_operations_per_second"] > 0
    figures = {one["workload"]: one for one in content["workloads"]}
    assert figures["texts"]["tokens"] == 8
    assert (figures["3x16"]["texts"], figures["3x16"]["tokens"]) == (3, 48)
    assert figures["3x16"]["tokenize_seconds"] is None
    assert figures["10"]["tokens"] >= 200
    for one in figures.values():
        assert one["operations"] > 0
        assert one["tokens_per_second"] > 0
        assert 0 <= one["padding_share"] < 1
        assert one["compiled_shapes"] >= 1


@pytest.mark.slow
def test_bench_of_random_weights_takes_the_tokenizer_and_leaves_nothing(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["bench", "--model", model, "--random", "minilm", "--workloads", "1x4", "--repeats", "1"]) == 0
    assert "random weights of the size of minilm" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit_the_model_is_left_out_unless_it_was_asked_for(model, capsys, monkeypatch):
    measured = []
    nothing = {field.name: 1 for field in dataclasses.fields(Figures)}

    def canned(embedder, name, *positional, **options):
        measured.append(name)
        return Figures(**{**nothing, "workload": name, "seconds": (1.0,), "padding_share": 0.0})

    monkeypatch.setattr("tsjax.bench.benchmark.measure", canned)
    assert main(["bench", "--model", model]) == 0
    assert measured == ["10", "mixed", "32x32", "1x16"]
    left_out = "tsjax: left out, since texts have 100 tokens at most: 139, 304, 32x128, 16x256, 8x512, 1x128\n"
    assert left_out in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "10,many"], "there is no workload 'many'"),
        (["--workloads", "8x512"], "the workload 8x512 needs longer texts than this model's 100 tokens"),
        (["--workloads", "139"], "the workload 139 needs longer texts"),
        (["--workloads", "texts"], "the workload texts needs --texts FILE"),
        (["--texts", "a.txt", "--workloads", "10"], "texts is not among --workloads"),
        (["--texts", "missing.txt"], "there is no file missing.txt"),
        (["--texts", "empty.txt"], "empty.txt holds no text"),
        (["--repeats", "0"], "--repeats must be a whole number of at least 1"),
        (["--tokens", "-5"], "--tokens must be a whole number of at least 1"),
        (["--seconds", "nan"], "--seconds must be finite and > 0"),
        (["--seconds", "0"], "--seconds must be finite and > 0"),
        (["--random", "huge"], "there is no random model 'huge'; it can be minilm, bert-base"),
        (["--json", "."], "exists already and is a directory"),
        (["--max-seq-length", "101"], "max_seq_length 101 is more than the 100 tokens"),
        (["--temperature", "-1"], "temperature must be finite and > 0"),
    ],
)
def test_a_bad_option_is_one_line(tmp_path, model, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "a.txt").write_text("the\n")
    assert main(["bench", "--model", model, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
