"""`tsjax learn` end to end on a small random model: its files, its messages, and its refusals."""

import csv
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tests.support.fakes import write_retrieval
from tests.support.learning_pairs import pairs
from tsjax.cli.main import main
from tsjax.errors import InputError
from tsjax.lab.evaluation import read_retrieval
from tsjax.lab.evaluation.copies import same_text
from tsjax.lab.learning.corpora import read_corpus, scored_texts, split_all
from tsjax.temperature import Temperature

pytestmark = pytest.mark.slow


def write_beir(folder, data):
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "text": text} for i, text in enumerate(data.documents)]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(data.queries)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grades = "".join(f"q{i}\td{i}\t1\n" for i in range(len(data)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + grades)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("learn")
    write_sentence_transformers(path / "model")
    write_beir(path / "corpus", pairs(40, 0))
    write_beir(path / "other", pairs(20, 1))
    data = pairs(24, 2, hard=1)
    rows = zip(data.queries, data.documents, data.negatives, strict=True)
    lines = [{"anchor": q, "positive": d, "negative": list(n)} for q, d, n in rows]
    (path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


QUICK = ["--steps", "4", "--batch-size", "6", "--evaluate-every", "2", "--compare", "0.9", "--compare-law", "log:16"]


def run(place, *arguments):
    return main(["learn", *map(str, arguments), "--model", str(place / "model"), *QUICK])


def test_from_data_to_a_model(place, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (place / "corpus", place / "pairs.jsonl", "-o", out, "--unseen", place / "other")
    assert run(place, *arguments) == 0
    said = capsys.readouterr()
    assert "step 4 of 4" in said.err
    for corpus in ("corpus", "pairs", "other"):
        assert f"{corpus}: MRR@10 on" in said.out
    assert said.out.count("learned against none") == 3
    report = json.loads((out / "report.json").read_text())
    tau = Temperature.from_json(report["temperature"])
    assert np.shape(tau.value) == (3, 3)
    assert Temperature.from_json(json.loads((out / "temperature.json").read_text())) == tau
    model = tsjax.load(out / "model")
    assert model.temperature == tau
    texts = list(pairs(5, 3).documents)
    np.testing.assert_array_equal(model.encode(texts), tsjax.load(place / "model", temperature=tau).encode(texts))
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["none", "best scalar", "best law", "learned"] * 3
    assert [row["queries"] for row in rows[::4]] == ["20", "12", "20"]
    assert [look["step"] for look in report["curve"]] == [0, 2, 4]
    for name in ("curve.png", "temperatures.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    # The same command again computes nothing, and prints the same.
    assert run(place, *arguments) == 0
    assert capsys.readouterr().out == said.out
    assert json.loads((out / "report.json").read_text()) == report


def test_without_a_refit_the_validated_temperatures_are_kept(place, tmp_path):
    assert run(place, place / "corpus", "-o", tmp_path / "out", "--no-refit", "--no-compare") == 0
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["refitted"]
    assert not (tmp_path / "out" / "refit").exists()


def test_without_validation_all_pairs_are_learned_from(place, tmp_path, capsys):
    corpus = read_corpus(place / "corpus")
    everything, nothing = corpus.split(1, 0)
    assert nothing is None
    assert len(everything) == 20
    assert run(place, place / "corpus", "-o", tmp_path / "out", "--validation", "0", "--no-compare") == 0
    assert "4 steps; nothing validated" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["best_step"], report["refitted"]) == (4, False)
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="from 0 to below 1"):
        corpus.split(0, 1.0)


def test_weights(place, tmp_path, capsys):
    out, options = tmp_path / "out", ("--weights", "--no-compare", "--matryoshka", "12", "--weight-learning-rate", 1e-3)
    assert run(place, place / "pairs.jsonl", "-o", out, *options) == 0
    said, report = capsys.readouterr(), json.loads((out / "report.json").read_text())
    assert report["refitted"]
    assert "learned again from all pairs" in said.out
    assert f"all pairs: step {report['best_step']} of {report['best_step']}: loss" in said.err
    before, after = (tsjax.load(path) for path in (place / "model", tmp_path / "out" / "model"))
    assert after.temperature == Temperature()
    assert np.abs(before.encode(["the cat"]) - after.encode(["the cat"])).max() > 1e-5
    assert not (tmp_path / "out" / "temperatures.png").exists()


@pytest.mark.parametrize("more", [(), ("--weights", "--weight-learning-rate", "1e-3")], ids=["temperatures", "weights"])
def test_a_command_killed_twice_ends_with_the_same_files(place, tmp_path, more):
    """The command is killed once among its steps, and once while it learns again from all pairs."""

    def command(out, until="nothing"):
        arguments = ["learn", place / "corpus", "-o", out, "--model", place / "model", *QUICK, *more, "--no-compare"]
        said = []
        with subprocess.Popen(
            [sys.executable, "-m", "tsjax", *map(str, arguments), "--steps", "8", "--learning-rate", "0.01"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as learning:
            for line in learning.stderr:
                said.append(line)
                if re.match(until, line):
                    learning.send_signal(signal.SIGKILL)
        assert learning.returncode == (0 if until == "nothing" else -signal.SIGKILL), "".join(said)
        return "".join(said)

    command(tmp_path / "whole")
    command(tmp_path / "killed", "tsjax: step 4 of 8")
    assert list((tmp_path / "killed" / "states").glob("[1-9]*"))
    command(tmp_path / "killed", "tsjax: all pairs: step [1-9]")
    assert list((tmp_path / "killed" / "refit" / "states").glob("[1-9]*"))
    assert "going on with the run" in command(tmp_path / "killed")
    files = [*(tmp_path / "whole").glob("*.*"), *(tmp_path / "whole" / "model").iterdir()]
    assert {"report.json", "curve.csv", "model.safetensors"} <= {file.name for file in files}
    for file in files:
        other = tmp_path / "killed" / file.relative_to(tmp_path / "whole")
        assert other.read_bytes() == file.read_bytes(), other


def test_the_held_out_half_is_seen_by_nothing(place):
    corpus = read_corpus(place / "corpus")
    for seed in (0, 1):
        training, validation = corpus.split(seed)
        held_out = {corpus.task.queries[i] for i in corpus.task.split(seed).held_out}
        assert not held_out & {*training.queries, *validation.queries}
        assert not set(training.queries) & set(validation.queries)
        assert len(training) + len(validation) == 20
        assert len(validation) == 4


def test_what_is_scored_in_another_corpus_is_not_learned_from(place, tmp_path, capsys):
    """The second corpus has all questions of the first one, asked a little differently."""
    data, more = pairs(40, 0), pairs(30, 4)
    both = data + more
    lines = [{"query": f" {q.upper()}", "positive": d} for q, d in zip(both.queries, both.documents, strict=True)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = read_corpus(place / "corpus"), read_corpus(tmp_path / "all.jsonl")
    scored = scored_texts([first, second], [], 0)
    for corpus in (first, second):
        for part in corpus.split(0, 0.2, scored):
            assert part.queries
            assert not {same_text(query) for query in part.queries} & scored
    parts = split_all([first, second], 0, 0.2, scored)
    learned, validated = ({same_text(q) for part in parts for q in part[i].queries} for i in (0, 1))
    assert not learned & validated
    assert run(place, place / "corpus", tmp_path / "all.jsonl", "-o", tmp_path / "out") == 0
    assert "all: " in capsys.readouterr().err
    with pytest.raises(InputError, match="corpus: of 20 queries to learn from, 20 are held out in another corpus"):
        first.split(0, 0.2, scored_texts([first], [second], 0))


def test_an_unseen_corpus_may_be_of_one_query(place, tmp_path, capsys):
    rows = [{"query": "is it?", "positive": "it is", "negative": "was it not"}]
    (tmp_path / "one.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert run(place, place / "corpus", "-o", tmp_path / "out", "--unseen", tmp_path / "one.jsonl") == 0
    assert "one: MRR@10 on 1 query" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    last = report["comparison"][-1]
    assert (last["corpus"], last["gain_low"], last["gain_telling"]) == ("one", None, False)


def test_queries_of_one_text_do_not_both_learn_and_validate(tmp_path):
    texts = [f"question {i // 3}" if i % 2 else f"Question  {i // 3}" for i in range(60)]
    lines = [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts)]
    documents = [{"_id": f"d{i}", "text": f"answer {i}"} for i in range(60)]
    corpus = read_corpus(write_retrieval(tmp_path, documents, lines, [(f"q{i}", f"d{i}", 1) for i in range(60)]))
    for seed in range(5):
        training, validation = corpus.split(seed)
        both = [{" ".join(query.split()).casefold() for query in part.queries} for part in (training, validation)]
        assert not both[0] & both[1]
        assert 6 <= len(validation) < 6 + 3
        assert len(training) + len(validation) == 30


def test_a_file_of_pairs_is_a_corpus_too(place):
    corpus = read_corpus(place / "pairs.jsonl")
    assert corpus.task.items == 24
    assert len(corpus.task.documents) == 48
    assert all(len(negatives) == 1 for negatives in corpus.negatives.values())
    assert read_corpus(place / "corpus").task == read_retrieval(place / "corpus")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no pair"),
        ([{"query": "a", "positive": "b"}] * 9, "nothing to tell apart"),
        ([{"query": "a"}], "line 1: no 'positive'"),
        ([{"query": "a", "positive": "b", "negative": [1]}], "line 1: 'negative'"),
        ([{"query": "a", "positive": "b", "negative": ["\ud800"]}], "line 1: 'negative' has a lone surrogate"),
        ([{"query": f"q{i}", "positive": f"d{i}"} for i in range(5)], "2 of the other 2 validate, and 0 are left"),
    ],
)
def test_data_that_cannot_teach_are_refused(tmp_path, lines, message):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=message):
        read_corpus(tmp_path / "pairs.jsonl").split(0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "1"], "at least 2"),
        (["--seed=-1"], "seed must be a whole number of at least 0"),
        (["--law", "cubic"], "no law 'cubic'"),
        (["--compare", "0.9,0"], "must be finite and > 0"),
        (["--measure", "luck"], "no measure 'luck'"),
        (["--form", "none"], "nothing is to learn"),
        (["--unseen", "CORPUS"], "a name of its own"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(place, tmp_path, arguments, message, capsys):
    given = [str(place / "corpus") if word == "CORPUS" else word for word in arguments]
    status = main(["learn", str(place / "corpus"), "-o", str(tmp_path / "o"), "--model", str(place / "model"), *given])
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def write_pairs(file, pairs):
    file.write_text("".join(json.dumps({"query": query, "positive": text}) + "\n" for query, text in pairs))
    return read_corpus(file)


def texts_of(part):
    return {same_text(text) for text in (*part.queries, *part.documents)}


def test_no_text_is_in_two_parts_whether_it_asks_or_answers(tmp_path):
    """Some answers answer two questions, and some questions are another question's answer."""
    rows = [(f"question {place}", f"answer {place // 2}") for place in range(80)]
    rows += [(f"ANSWER  {place}", f"about {place}") for place in range(0, 40, 5)]
    corpus = write_pairs(tmp_path / "pairs.jsonl", rows)
    for seed in range(4):
        learned, validated = map(texts_of, corpus.split(seed))
        held_out = scored_texts([corpus], [], seed)
        assert not learned & validated
        assert not (learned | validated) & held_out
        assert len(held_out | learned | validated) == 80 + 40 + 8


def test_an_answer_that_is_scored_in_another_corpus_is_not_learned_from(tmp_path):
    first = write_pairs(tmp_path / "one.jsonl", [(f"question {place}", f"answer {place}") for place in range(60)])
    second = write_pairs(tmp_path / "two.jsonl", [(f"other {place}", f"Answer {40 + place} ") for place in range(80)])
    scored = scored_texts([first], [second], 0)
    learned = set().union(*map(texts_of, first.split(0, 0.2, scored)))
    assert learned
    assert not learned & {same_text(text) for text in second.task.documents}
    for seed in range(3):
        parts = split_all([first, second], seed, 0.2, scored_texts([first, second], [], seed))
        learned, validated = (set().union(*(texts_of(part[i]) for part in parts)) for i in (0, 1))
        assert not learned & validated
        assert not (learned | validated) & scored_texts([first, second], [], seed)


@pytest.mark.parametrize("blank", [{"query": " "}, {"positive": ""}])
def test_a_pair_without_text_is_refused(tmp_path, blank):
    rows = [{"query": f"q{i}", "positive": f"d{i}"} for i in range(9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | blank]))
    with pytest.raises(InputError, match=r"line 10: the (query|positive) has no text"):
        read_corpus(tmp_path / "pairs.jsonl")
