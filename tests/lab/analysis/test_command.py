"""``tsjax collapse``, with the default model on short texts and with a small one."""

import csv
import json
import re
import shlex

import numpy as np
import pytest

from tests.support.checkpoints import WORDS, write_bert
from tsjax.cli.main import main

WORD_LIST = WORDS.split()


def texts(count=6, words=38):
    return [" ".join(np.random.default_rng(seed).choice(WORD_LIST, words)) for seed in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_bert(tmp_path_factory.mktemp("model") / "source"))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts()), encoding="utf-8")
    return path


def small(corpus, model, output, *more):
    given = ["collapse", "--texts", corpus, "--column", "body", "--model", model, "-o", output, "--layer-texts", "0"]
    return main([*map(str, given), "--lengths", "8,20", *more])


@pytest.mark.slow
def test_end_to_end_with_the_default_model(minilm, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(texts(5, 20)) + "\n", encoding="utf-8")
    out = tmp_path / "report"
    given = ["--lengths", "8,16", "--temperature", "1.0,0.5", "--layer-texts", "1"]
    assert main(["collapse", "--texts", str(corpus), "-o", str(out), *given]) == 0
    stdout, stderr = capsys.readouterr()
    assert re.search(r"^ +tokens +texts +τ = 1 +τ = 0.5$", stdout, re.MULTILINE)
    assert all(line.startswith("tsjax: ") for line in stderr.splitlines())
    assert f"written to {out}" in stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["about"]["model"] == minilm.metadata.source
    assert [entry["name"] for entry in report["about"]["temperatures"]] == ["1", "0.5"]
    heads = [row for row in report["heads"] if row["corpus"] == "cut" and row["length"] == 16]
    assert len(heads) == 2 * 6 * 12
    entropy = {name: np.mean([row["entropy"] for row in heads if row["temperature"] == name]) for name in ("1", "0.5")}
    assert entropy["0.5"] < entropy["1"]
    for row in report["vectors"]:
        assert f"{row['mean_cosine']:.4f}" in stdout
    assert stdout.splitlines()[-2:] == [report["sentences"]["cosine"], report["summary"]]
    with (out / "vectors.csv").open(newline="") as stream:
        assert {row["corpus"] for row in csv.DictReader(stream)} == {"cut", "repeated"}
    assert (out / "index.html").is_file()
    assert len(list(out.glob("*.png"))) == 7


def test_the_example_of_the_help_can_be_parsed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["collapse", "--help"])
    (example,) = re.findall(r"example: tsjax (.*)", " ".join(capsys.readouterr().out.split()))
    from tsjax.cli.main import _parser

    options = _parser().parse_args(shlex.split(example))
    assert options.texts == "scripts/demo.jsonl"
    assert [value.value for value in options.temperature] == [1.0, 0.8]


@pytest.mark.slow
def test_temperatures_of_every_kind(corpus, model, tmp_path):
    law = '{"value": 0.9, "by_length": {"law": "log", "reference_length": 8}}'
    given = ["--temperature", "1,0.9", "--temperature", "[1, 0.5, 0.25]", "--temperature", law]
    assert small(corpus, model, tmp_path / "out", *given) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert len(report["about"]["temperatures"]) == 4
    assert len({row["temperature"] for row in report["vectors"]}) == 4
    assert report["heads"] == report["states"] == []
    assert not (tmp_path / "out" / "heads.csv").exists()


@pytest.mark.slow
def test_a_report_is_replaced_only_when_asked_and_nothing_else_is(corpus, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert small(corpus, model, out) == 0
    assert small(corpus, model, out) == 2
    assert "exists already; choose another name or overwrite it (--overwrite)" in capsys.readouterr().err
    (out / "vectors.csv").write_text("old")
    assert small(corpus, model, out, "--overwrite") == 0
    assert (out / "vectors.csv").read_text() != "old"
    (out / "thesis.txt").write_text("mine")
    assert small(corpus, model, out, "--overwrite") == 2
    (out / "thesis.txt").unlink()
    (tmp_path / "link").symlink_to(out)
    assert small(corpus, model, tmp_path / "link", "--overwrite") == 2
    capsys.readouterr()
    for name in ("thesis.txt", "report.json"):  # Learning runs have a report.json, too.
        precious = tmp_path / name
        precious.mkdir()
        (precious / name).write_text("mine")
        assert small(corpus, model, precious, "--overwrite") == 2
        assert "is no report of tsjax collapse, or holds more, so it is not replaced" in capsys.readouterr().err
        assert (precious / name).read_text() == "mine"


def test_nothing_is_left_where_it_fails(corpus, model, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("tsjax.lab.analysis.report._page", fail)
    with pytest.raises(RuntimeError):
        small(corpus, model, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["corpus.jsonl"]


@pytest.mark.parametrize("terminal", [False, True])
def test_each_step_is_told_with_the_number_of_steps(corpus, model, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr("tsjax.cli.collapse.on_terminal", lambda: terminal)
    assert small(corpus, model, tmp_path / "out", "--layer-texts", "1", "--temperature", "1,0.9") == 0
    err = capsys.readouterr().err
    told = re.findall(r"step (\d+) of (\d+): ", err)
    buckets = len(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["vectors"]) // 2
    steps = 2 * (1 + buckets)
    assert told == ([] if terminal else [(str(n + 1), str(steps)) for n in range(steps)])
    assert (f"/{steps} " in err, "minutes" in err) == (terminal, terminal)
    assert "texts, texts" not in err


def test_without_matplotlib_it_says_so(corpus, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tsjax.lab.analysis.report.is_installed", lambda module: module != "matplotlib")
    assert small(corpus, model, tmp_path / "out") == 0
    assert "no plots: they need matplotlib; install it with: pip install 'tsjax[lab]'" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ("", [], "holds no text"),
        ('{"body": "the of"}\n', [], "there is one text only"),
        ('{"body": "the"}\n{"body": "of"}\n{"body": "a"}\n', [], "no length has 3 texts"),
        (None, ["--temperature", "1,0"], "temperature must be finite and > 0"),
        (None, ["--temperature", "1,x"], "is neither a number nor"),
        (None, ["--temperature", "[1, 0.9]"], "3 layers"),
        (None, ["--lengths", "8,x"], "is no list of whole numbers"),
        (None, ["--lengths", "8,99"], "a length is 99"),
        (None, ["--max-seq-length", "99"], "max_seq_length 99 is more than the 41"),
        (None, ["--texts-per-bucket", "1"], "texts_per_bucket must be at least 3"),
        (None, ["--seed", "-1"], "--seed must be at least 0"),
        (None, ["--column", "text"], "has 'text', only 'body'"),
    ],
)
def test_bad_input_gets_one_line_and_no_directory(content, more, message, corpus, model, tmp_path, capsys):
    if content is not None:
        corpus.write_text(content, encoding="utf-8")
    try:
        status = small(corpus, model, tmp_path / "out", *more)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("tsjax")
    assert message in error
    assert not (tmp_path / "out").exists()
