"""The page of evidence, which repeats its studies' reports, and its data, which are cut as described."""

import json

import pytest

from scripts.evidence import collect as evidence
from scripts.evidence.page import page
from scripts.evidence.texts import answered_once, excerpts, held_out_half, labelled_sample
from tsjax.lab.evaluation import read_retrieval
from tsjax.lab.evaluation.tasks import Retrieval

GAIN = {"difference": 0.021, "low": 0.004, "high": 0.038, "telling": True}
NOISE = {"difference": -0.01, "low": -0.03, "high": 0.01, "telling": True}


def candidate(name, tau, validation, held_out, gain=NOISE):
    same = {"law": "none", "side": "both", "temperature": {"value": tau}}
    return {"name": name, "tau": tau, "validation": validation, "held_out": held_out, "gain": gain, **same}


SWEEP = {
    "task": "retrieval",
    "measure": "MRR@10",
    "unit": "questions",
    "validation_items": 10,
    "held_out_items": 30,
    "candidates": [candidate("τ = 1", 1.0, 0.5, 0.6), candidate("τ = 0.9", 0.9, 0.54, 0.621, GAIN)],
    "best_on_validation": "τ = 0.9",
    "by_length": [
        {"start": 1, "end": 100, "items": 4, "baseline": None, "best": 0.5, "gain": None},
        {"start": 100, "end": 900, "items": 26, "baseline": 0.61, "best": 0.64, "gain": GAIN},
    ],
    "notes": ["7 documents were cut"],
    "verdict": "τ = 0.9: a gain; use it",
}


def way(name, score, gain=GAIN, over=None):
    row = {"corpus": "perlfaq", "seen": False, "queries": 319, "name": name, "temperature": "0.9", "score": score}
    for key, interval in {"gain": gain, "over_scalar": over}.items():
        names = {key: "difference", f"{key}_low": "low", f"{key}_high": "high", f"{key}_telling": "telling"}
        row |= {name: None if interval is None else interval[own] for name, own in names.items()}
    return row


LEARN = {"comparison": [way("none", 0.7), way("best scalar", 0.71), way("learned", 0.72, over=NOISE)]}
LEARN |= {"steps": 40, "best_step": 35, "refitted": True, "curve": [{"step": 0, "validation_loss": 1.0}]}
LEARN["recipe"] = {"steps": 60, "batch_size": 24, "learning_rate": 0.02, "penalty": 0.01, "train_length": None}


RECORD = {"command": "", "date": "", "machine": "", "versions": ""}


@pytest.fixture(scope="module")
def written():
    found = {"sweep-minilm-perlfaq": SWEEP, "learn-minilm-anarchism-0": LEARN}
    same = {**RECORD, "date": "2026-01-02", "machine": "a machine", "versions": "jax 1"}
    return page([*found], found, {name: {**same, "command": f"tsjax of {name}"} for name in found})


def test_figures_are_the_reports(written):
    text, pictures = written
    assert (
        "| all-MiniLM-L6-v2 | perlfaq | retrieval, MRR@10 | 30 | 0.6000 | 0.6210 | τ = 0.9 | **+2.1 (+0.4 to +3.8)** |"
        in text
    )
    assert "In words: τ = 0.9: a gain; use it." in text
    assert "7 documents were cut." in text
    assert "| 1–99 | 4 |  | 0.5000 |  |" in text
    assert "| anarchism 0 | perlfaq (unseen) | 319 | 0.7000 |" in text
    assert "-1.0 (-3.0 to +1.0) |" in text
    assert "How: up to 60 steps of 24 pairs, learning rate 0.02, penalty 0.01, texts cut at the length" in text
    assert "tsjax of learn-minilm-anarchism-0" in text
    assert "Measured: 2026-01-02, a machine, jax 1; with" in text
    assert pictures["sweep-minilm-perlfaq-sweep.png"] == ("sweep-minilm-perlfaq", "sweep.png")
    assert all(f"](evidence/{name})" in text for name in pictures)


def test_where_nothing_is_better_nothing_is_compared_by_length():
    name = "sweep-minilm-perlfaq"
    text, _ = page([name], {name: {**SWEEP, "best_on_validation": "τ = 1"}}, {name: dict.fromkeys(RECORD, "")})
    assert "By tokens of the text that matters, τ = 1:\n" in text
    assert "| 100–899 | 26 | 0.6100 |\n" in text


def test_a_gain_of_too_few_to_tell_is_not_bold():
    name = "sweep-minilm-perlfaq"
    few = candidate("τ = 0.9", 0.9, 0.5, 0.6, {**GAIN, "telling": False})
    report = {**SWEEP, "candidates": [SWEEP["candidates"][0], few]}
    text, _ = page([name], {name: report}, {name: dict.fromkeys(RECORD, "")})
    assert "| 0.6000 | +2.1 (+0.4 to +3.8) |" in text


def test_what_was_learned_from_too_few_to_tell_is_neither_bold_nor_shipped():
    name, few = "learn-minilm-without-perlfaq", {**GAIN, "telling": False}
    report = {**LEARN, "comparison": [*LEARN["comparison"][:-1], way("learned", 0.72, few, over=few)]}
    text, _ = page([name], {name: report}, {name: dict.fromkeys(RECORD, "")})
    assert "| 0.7200, +2.1 (+0.4 to +3.8) | +2.1 (+0.4 to +3.8) |" in text
    assert "on 0 of the 1 corpora left out" in text


def test_a_section_that_is_not_whole_stays_as_it_was(written):
    before, _ = written
    learned = "learn-minilm-anarchism-0"
    changed = {**LEARN, "best_step": 39}
    record = {"command": "tsjax anew", "date": "2027-01-02", "machine": "another", "versions": "jax 2"}
    studies = ["sweep-minilm-perlfaq", "sweep-minilm-lee50", learned]
    text, pictures = page(studies, {learned: changed}, {learned: record}, before)
    assert set(pictures) == {f"{learned}-temperatures.png", f"{learned}-curve.png"}
    assert text.replace("after 39 steps", "after 35 steps").replace(
        "Measured: 2027-01-02, another, jax 2; with\n\n```sh\ntsjax anew",
        f"Measured: 2026-01-02, a machine, jax 1; with\n\n```sh\ntsjax of {learned}",
    ) == "".join(before)
    assert "after 39 steps" in text


def test_the_gains_of_several_runs_have_a_mean():
    names = [f"learn-minilm-anarchism-{seed}" for seed in (0, 1)]
    found = {}
    for seed, name in enumerate(names):
        rows = [{**row, "corpus": f"half-{seed}"} for row in LEARN["comparison"]]
        rows[-1] |= {"gain": 0.02 + 0.04 * seed}
        found[name] = {**LEARN, "comparison": rows}
    text, _ = page(names, found, {name: dict.fromkeys(RECORD, "") for name in names})
    assert "Mean gain of what was learned, in points: half (unseen) +4.0, of 2 runs." in text


def test_the_page_says_whether_a_mix_serves_what_was_left_out():
    name = "learn-minilm-without-perlfaq"
    text, _ = page([name], {name: LEARN}, {name: dict.fromkeys(RECORD, "")})
    assert "on 0 of the 1 corpora left out, what was learned beats the best scalar beyond noise, so none is" in text
    better = {**LEARN, "comparison": [*LEARN["comparison"][:-1], way("learned", 0.72, over=GAIN)]}
    text, _ = page([name], {name: better}, {name: dict.fromkeys(RECORD, "")})
    assert "on 1 of the 1 corpora left out, what was learned beats the best scalar beyond noise, so some" in text


def test_a_mean_over_all_questions_is_weighted_by_the_halves(written):
    assert "| all-MiniLM-L6-v2 | perlfaq | MRR@10 | 1 | 40 | 0.5750 |" in written[0]


def test_passages_find_the_rest_of_their_texts(tmp_path):
    texts = [" ".join(f"w{i}x{j}" for j in range(200)) for i in range(9)] + ["too short"]
    excerpts(texts, tmp_path, texts_wanted=5, seed=0)
    task = read_retrieval(tmp_path)
    assert len(task.queries) == len(task.documents) == 5
    for query, document, relevant in zip(task.queries, task.documents, task.relevant, strict=True):
        assert f"{query} {document}" in texts
        assert task.documents[next(iter(relevant))] == document


def test_a_half_by_itself_holds_the_held_out_questions_and_their_texts_alone(tmp_path):
    texts = tuple(f"text {i}" for i in range(9))
    task = Retrieval(texts, tuple(f"question {i}" for i in range(8)), tuple({i: 1, 8: 1} for i in range(8)), "MRR@10")
    held_out_half(task, tmp_path, seed=3)
    half, chosen = read_retrieval(tmp_path), task.split(3).held_out.tolist()
    assert half.queries == tuple(f"question {i}" for i in chosen)
    for place, question in enumerate(chosen):
        assert {half.documents[i] for i in half.relevant[place]} == {f"text {question}", "text 8"}
    assert len(half.documents) == len(chosen) + 1


def test_a_question_that_stands_twice_keeps_its_longest_answer(tmp_path):
    texts = tuple("word " * n for n in (4, 9, 2, 7, 5))
    task = Retrieval(texts, ("A?", "b?", " a? ", "c?"), ({0: 1}, {1: 1}, {3: 1}, {2: 1}))
    answered_once(task, tmp_path, [0, 1, 2])
    once = read_retrieval(tmp_path)
    assert once.queries == ("b?", " a? ")
    assert once.documents == (texts[1], texts[2], texts[3], texts[4])
    assert [[*own] for own in once.relevant] == [[0], [2]]


def test_a_sample_has_as_many_of_each_label():
    rows = [{"text": f"t{i}", "label": "ab"[i % 3 == 0], "more": 1} for i in range(30)]
    sample = labelled_sample(rows, texts=10, seed=0)
    assert sorted(row["label"] for row in sample) == ["a"] * 5 + ["b"] * 5
    assert set(sample[0]) == {"text", "label"}
    assert len({row["text"] for row in sample}) == 10


def test_every_study_is_a_command_that_parses(tmp_path):
    from tsjax.cli.main import _parser

    for study in evidence.STUDIES:
        arguments = study.command.format(lab="lab", mpnet="mpnet", made="made", out="out").split()
        assert _parser().parse_args(arguments).command


def test_a_study_that_is_there_is_not_run_again(tmp_path, monkeypatch):
    (tmp_path / "made").mkdir()
    (tmp_path / "study").mkdir()  # left by a kill
    ran = []

    class Done:
        returncode = 0
        stdout = "said\n"

    monkeypatch.setattr(evidence.subprocess, "run", lambda arguments, **_: ran.append(arguments) or Done())
    monkeypatch.setattr(evidence, "_version", lambda: "1")
    places = dict.fromkeys(("lab", "mpnet", "made"), tmp_path)
    for _ in range(2):
        evidence.run(evidence.STUDIES[0], tmp_path / "study", places)
    assert len(ran) == 1
    assert not (tmp_path / "study").exists()
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["said"] == "said\n"
    assert record["command"] == evidence.STUDIES[0].command
    assert str(tmp_path / "study") in ran[0]
    with pytest.raises(SystemExit, match="another command"):
        evidence.run(evidence.STUDIES[1], tmp_path / "study", places)


def test_a_report_that_was_kept_needs_no_study_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    name = "sweep-minilm-lee50"
    out = tmp_path / "evidence" / name
    out.mkdir(parents=True)
    (out / "report.json").write_text(json.dumps({**SWEEP, "heads": [1], "model": "/home/somebody"}))
    (out / "sweep.png").write_bytes(b"picture")
    out.with_name(f"{name}.json").write_text(json.dumps({**RECORD, "command": "sweep sts {lab}/lee50 -o {out}"}))
    monkeypatch.setattr(evidence, "STUDIES", [evidence.Study(name, "sweep")])
    evidence.write(tmp_path / "evidence")
    docs = tmp_path / "docs"
    page_before = (docs / "evidence.md").read_text()
    assert "τ = 0.9: a gain; use it" in page_before
    assert f"tsjax sweep sts build/lab/lee50 -o build/evidence/{name}" in page_before
    assert (docs / "evidence" / f"{name}-sweep.png").read_bytes() == b"picture"
    assert not {"heads", "model"} & set(
        json.loads((docs / "evidence" / "reports" / f"{name}.json").read_text())["report"]
    )
    evidence.write(tmp_path / "nothing")
    assert (docs / "evidence.md").read_text() == page_before
    assert (docs / "evidence" / f"{name}-sweep.png").read_bytes() == b"picture"
