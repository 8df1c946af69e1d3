"""``tsjax sweep`` from end to end, on random checkpoints."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import WORDS, write_bert
from tests.support.fakes import write_lines, write_retrieval
from tsjax.cli import main as cli
from tsjax.temperature import Temperature

VOCABULARY = WORDS.split()


@pytest.fixture(scope="module")
def model(tmp_path_factory, _own_cache):
    return str(write_bert(tmp_path_factory.mktemp("model") / "bert", max_position_embeddings=64))


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(VOCABULARY, rng.integers(3, 90))) for _ in range(count)]


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory):
    """Return questions that are parts of their documents."""
    documents = texts(40)
    return str(
        write_retrieval(
            tmp_path_factory.mktemp("retrieval"),
            [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)],
            [{"_id": f"q{i}", "text": " ".join(text.split()[:3])} for i, text in enumerate(documents)],
            [(f"q{i}", f"d{i}", 1) for i in range(40)],
        )
    )


def main(*arguments):
    return cli.main(["sweep", *map(str, arguments), "--no-compile-cache"])


@pytest.mark.slow
def test_a_sweep_of_retrieval_and_what_it_saves(tmp_path, model, retrieval, capsys, monkeypatch):
    # Ignore the noise, so that there is a temperature to save.
    monkeypatch.setattr("tsjax.lab.evaluation.bootstrap.Interval.verdict", 1)
    chosen = ["--temperature", "0.5,3", "--law", "none,piecewise:8:64", "--side", "both,documents", "--seed", "1"]
    out, saved = tmp_path / "report", tmp_path / "tuned"
    assert (
        main("retrieval", retrieval, "--model", model, *chosen, "--measure", "MRR@40", "-o", out, "--save", saved) == 0
    )
    printed, progress = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert printed.splitlines()[-1] == report["verdict"]
    assert report["verdict"].endswith("use it")
    assert len(report["candidates"]) == 1 + 2 * 2 * 2
    assert "embedding 40 documents at τ = 0.5" in progress
    assert report["truncated"]["documents"] > 0
    assert f"{report['truncated']['documents']} documents were longer than 64 tokens" in printed

    best = max(report["candidates"], key=lambda one: one["validation"])
    assert best["name"] == report["best_on_validation"] == report["chosen"]["name"] != "τ = 1"
    temperature = Temperature.from_json(report["chosen"]["temperature"])
    again, original = tsjax.load(saved), tsjax.load(model)
    assert again.temperature == temperature
    with pytest.warns(tsjax.TruncationWarning):
        np.testing.assert_array_equal(
            again.encode_document(texts(40)), original.encode_document(texts(40), temperature=temperature)
        )
    np.testing.assert_array_equal(
        again.encode_query("the of"), original.encode_query("the of", temperature=temperature)
    )


@pytest.mark.slow
def test_without_a_gain_what_is_saved_is_one(tmp_path, model, retrieval, capsys, monkeypatch):
    monkeypatch.setattr("tsjax.lab.evaluation.bootstrap.Interval.verdict", 0)
    saved = tmp_path / "tuned"
    arguments = ["--temperature", "0.5,3", "--max-seq-length", "20", "--save", saved]
    assert main("retrieval", retrieval, "--model", model, *arguments) == 0
    printed, progress = capsys.readouterr()
    assert "leave τ = 1" in printed.splitlines()[-1]
    assert "the model with τ = 1" in progress
    again = tsjax.load(saved)
    assert again.temperature == Temperature()
    assert again.max_seq_length == 20


@pytest.mark.slow
def test_a_saved_temperature_is_not_the_baseline(tmp_path, model, retrieval, capsys):
    assert cli.main(["convert", model, str(tmp_path / "hot"), "--temperature", "5"]) == 0
    found = []
    for name in (model, tmp_path / "hot"):
        out = tmp_path / f"report-{len(found)}"
        assert main("retrieval", retrieval, "--model", name, "--temperature", "0.7", "-o", out) == 0
        found.append(json.loads((out / "report.json").read_text()))
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_other_tasks(tmp_path, model, capsys):
    labelled = [{"text": text, "label": i % 3} for i, text in enumerate(texts(36, 2))]
    pairs = zip(texts(40, 3), texts(40, 4), strict=True)
    write_lines(tmp_path / "texts.jsonl", labelled)
    scored = [{"sentence1": a, "sentence2": b, "score": len(a)} for a, b in pairs]
    write_lines(tmp_path / "pairs.jsonl", scored)
    for kind, file, measure in (
        ("sts", "pairs.jsonl", "Pearson"),
        ("classification", "texts.jsonl", "macro-F1"),
        ("clustering", "texts.jsonl", "V-measure"),
    ):
        assert main(kind, tmp_path / file, "--model", model, "--temperature", "0.5", "--measure", measure) == 0
        assert capsys.readouterr().out.startswith(f"{kind}, {measure}: τ chosen on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["retrieval", "nowhere"], "there is no folder nowhere"),
        (["retrieval", "DATA", "--temperature", "1,0"], "each temperature of the grid must be finite and > 0, not 0.0"),
        (["retrieval", "DATA", "--temperature", "nan"], "each temperature of the grid must be finite and > 0, not nan"),
        (["retrieval", "DATA", "--law", "cubic"], "there is no law 'cubic'"),
        (["retrieval", "DATA", "--law", "log:" + "9" * 5000], "there is no law 'log:999"),
        (["retrieval", "DATA", "--side", "answers"], "there is no side 'answers'"),
        (["retrieval", "DATA", "--measure", "accuracy"], "retrieval has no measure 'accuracy'"),
        (["retrieval", "DATA", "--seed", "-1"], "seed must be a whole number of at least 0"),
        (["retrieval", "DATA", "-o", "there"], "there exists already"),
        (["retrieval", "DATA", "--save", "there"], "there exists already"),
        (["retrieval", "DATA", "--save", "x", "-o", "x"], "--output and --save are both x"),
        (["sts", "pairs.jsonl", "--side", "documents"], "sts has no queries and documents"),
        (["sts", "pairs.jsonl"], ""),
        (["sts", "one.jsonl"], "one.jsonl: every pair has the score 1"),
        (["classification", "pairs.jsonl"], "pairs.jsonl, line 1: no 'text'"),
    ],
)
def test_bad_input_is_one_line_before_any_model_is_loaded(tmp_path, retrieval, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    write_lines(tmp_path / "one.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1}])
    write_lines(
        tmp_path / "pairs.jsonl", [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i} for i in range(30)]
    )
    before = sorted(tmp_path.iterdir())
    # There is no such model, so a command that tries to load it says so.
    assert main(*(retrieval if one == "DATA" else one for one in arguments), "--model", "./no-model") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert (message or "there is no directory ./no-model") in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_result_that_cannot_be_written_is_not_lost(tmp_path, model, retrieval, capsys):
    (tmp_path / "file").write_text("")
    assert main("retrieval", retrieval, "--model", model, "--temperature", "0.5", "-o", tmp_path / "file" / "out") == 2
    out, err = capsys.readouterr()
    assert "leave τ = 1" in out.splitlines()[-1] or "use it" in out.splitlines()[-1]
    assert "cannot write" in err.splitlines()[-1]


def test_an_interrupt_leaves_nothing(tmp_path, model, retrieval):
    arguments = [
        "retrieval",
        retrieval,
        "--model",
        model,
        "-o",
        str(tmp_path / "out"),
        "--save",
        str(tmp_path / "saved"),
    ]
    command = [sys.executable, "-m", "tsjax", "sweep", *arguments, "--no-compile-cache"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "embedding" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "tsjax: interrupted"
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["warm", ",", "", "1;0.9"])
def test_a_wrong_list_is_one_line(wrong, capsys):
    with pytest.raises(SystemExit):
        main("retrieval", "x", "--temperature", wrong)
    assert f"{wrong!r} is no list of numbers such as 1,0.9,0.8" in capsys.readouterr().err


def test_a_missing_package_is_said_before_any_work(tmp_path, retrieval, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main("retrieval", retrieval, "--model", "./no-model", "-o", tmp_path / "out") == 2
    assert "needs matplotlib; install it with: pip install 'tsjax[lab]'" in capsys.readouterr().err


def test_tokens_are_counted_before_anything_is_cut(model):
    embedder = tsjax.load(model)
    long = " ".join(["the"] * 500)
    assert embedder.count_tokens(["the of", long]).tolist() == [4, 502]
    assert embedder.max_seq_length == 64
    with pytest.raises(tsjax.InputError, match="text 1 is None"):
        embedder.count_tokens(["a", None])
