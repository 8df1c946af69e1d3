"""The sweep: τ is chosen without the held-out part, and nothing is embedded twice."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

import tsjax
from tests.support.fakes import FakeEmbedder, texts
from tsjax.errors import InputError
from tsjax.lab.evaluation import STS, Classification, Clustering, Retrieval, compare, grid, sweep, verdict
from tsjax.lab.evaluation.candidates import BASELINE
from tsjax.lab.evaluation.lengths import buckets
from tsjax.lab.evaluation.report import content, lines, write
from tsjax.lab.evaluation.sweeping import choose
from tsjax.temperature import LogLength, Piecewise, Temperature

GRID = grid([1.0, 0.9, 0.8, 0.7])


def retrieval(count=96, **changes):
    return Retrieval(
        texts(count), texts(count, 1), tuple({i: 1} for i in range(count)), **{"measure": "R@10", **changes}
    )


def tasks():
    documents = texts(120)
    labels = tuple(text.split()[0] for text in documents)
    pairs = tuple(zip(documents, texts(120, 1)[6:] + texts(6, 1), strict=True))
    alike = tuple(float(a.split()[0] == b.split()[0]) + 0.1 * (i % 3) for i, (a, b) in enumerate(pairs))
    return {
        "retrieval": retrieval(),
        "sts": STS(pairs, alike),
        "classification": Classification(documents, labels, experiments=3),
        "clustering": Clustering(documents, labels, experiments=2),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retrieval", "sts", "classification", "clustering"])
def test_the_best_temperature_is_found_and_reported(kind):
    task = tasks()[kind]
    if kind == "sts":  # pairs of one topic, and pairs of two
        pairs = [(a, b) for a, b in zip(texts(240), texts(240, 1), strict=True)]
        pairs[::2] = [(a, pairs[(i * 2 + 1) % 240][1]) for i, (a, _) in enumerate(pairs[::2])]
        task = STS(tuple(pairs), tuple(float(a.split()[0] == b.split()[0]) for a, b in pairs))
    result = sweep(FakeEmbedder(best=0.8, noise=4), task, GRID)
    assert result.best.candidate.tau == 0.8
    assert result.best.gain.low > 0
    assert result.chosen is result.best.candidate
    gain = f"{100 * result.best.gain.difference:+.1f} {task.measure} points on held-out {task.unit}"
    assert verdict(result).startswith(f"τ = 0.8: {gain} (95 % interval +")
    assert verdict(result).endswith("; use it")
    assert result.baseline.candidate == BASELINE
    assert result.scored[0].gain.difference == 0
    assert [one.candidate.tau for one in result.scored] == [1, 0.9, 0.8, 0.7]
    assert result.best.gain.difference == pytest.approx(result.best.held_out - result.baseline.held_out)
    assert sum(row.items for row in result.by_length) == result.held_out_items
    assert list(lines(result))[-1] == verdict(result)
    assert json.loads(json.dumps(content(result), allow_nan=False))["chosen"]["temperature"] == {"value": 0.8}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retrieval", "sts", "classification", "clustering"])
def test_the_choice_never_sees_the_held_out_part(kind):
    """The validation scores and the choice do not depend on the held-out items."""
    task = tasks()[kind]
    split = task.split(0)
    swapped = np.roll(split.held_out, 1)
    if kind == "retrieval":
        relevant = list(task.relevant)
        for place, other in zip(split.held_out, swapped, strict=True):
            relevant[place] = task.relevant[other]
        spoilt = dataclasses.replace(task, relevant=tuple(relevant))
    else:
        name = "scores" if kind == "sts" else "labels"
        values = list(getattr(task, name))
        for place, other in zip(split.held_out, swapped, strict=True):
            values[place] = getattr(task, name)[other]
        spoilt = dataclasses.replace(task, **{name: tuple(values)})
        # A split by label follows the labels. Fix it, so that only the held-out part changes.
        object.__setattr__(spoilt, "split", lambda seed: split)
    before, after = (sweep(FakeEmbedder(), one, GRID) for one in (task, spoilt))
    assert [one.validation for one in before.scored] == [one.validation for one in after.scored]
    assert before.best.candidate == after.best.candidate
    assert [one.held_out for one in before.scored] != [one.held_out for one in after.scored]


def test_the_held_out_scores_come_from_the_held_out_part_alone():
    task = retrieval()
    split = task.split(5)
    relevant = list(task.relevant)
    for place, other in zip(split.validation, np.roll(split.validation, 1), strict=True):
        relevant[place] = task.relevant[other]
    before, after = (
        sweep(FakeEmbedder(), one, GRID, seed=5) for one in (task, dataclasses.replace(task, relevant=tuple(relevant)))
    )
    assert [(one.held_out, one.gain) for one in before.scored] == [(one.held_out, one.gain) for one in after.scored]
    assert [one.validation for one in before.scored] != [one.validation for one in after.scored]


def test_nothing_is_embedded_twice():
    task = retrieval()
    for sides, documents, queries in (
        (["queries"], 1, 4),
        (["documents"], 4, 1),
        (["both", "queries", "documents"], 4, 4),
    ):
        embedder = FakeEmbedder()
        result = sweep(embedder, task, grid([1.0, 0.9, 0.8, 0.7], sides=sides))
        assert len(result.scored) == 1 + 3 * len(sides)
        sides_of_calls = [side for side, _, _ in embedder.calls]
        assert (sides_of_calls.count("document"), sides_of_calls.count("query")) == (documents, queries)
    for one in result.scored:
        side, tau = one.candidate.side, one.candidate.tau
        parts = [one.candidate.temperature.for_task(task).value for task in ("document", "query")]
        assert parts == [1 if side == "queries" else tau, 1 if side == "documents" else tau]


def test_the_order_of_embedding_changes_no_score():
    task = retrieval()
    mixed = grid([0.9, 0.8], sides=["queries", "both", "documents"])
    result = sweep(FakeEmbedder(), task, mixed)
    alone = {one: sweep(FakeEmbedder(), task, [one]).scored[1] for one in mixed[1:]}
    assert list(result.scored[1:]) == list(alone.values())


def test_compare_scores_what_sweep_scores():
    task, embedder = retrieval(), FakeEmbedder(noise=4)
    result = sweep(embedder, task, GRID, seed=2)
    named = {"none": 1.0, "best": result.best.candidate.temperature, "same": Temperature(0.8)}
    compared = compare(embedder, task, named, seed=2)
    assert list(compared) == list(named)
    assert compared["best"].score == result.best.held_out
    assert compared["best"].gain == compared["same"].gain == result.best.gain
    assert compared["none"].gain.difference == 0
    validation = compare(embedder, task, named, seed=2, part="validation")
    assert validation["best"].score == result.best.validation
    whole = compare(embedder, task, named, seed=2, part="all")
    assert whole["best"].score == pytest.approx((result.best.validation + result.best.held_out) / 2)


def test_parts_that_are_clustered_apart_have_no_score_together():
    with pytest.raises(InputError, match="the two parts mean nothing together"):
        compare(FakeEmbedder(), tasks()["clustering"], {"best": 0.9}, part="all")


def test_a_tie_goes_to_the_temperature_nearest_to_one():
    candidates = grid([0.5, 0.9, 1.05, 2.0])
    assert candidates[choose(candidates, [0.2, 0.4, 0.4, 0.4, 0.4])].tau == 1.05
    assert choose(candidates, [0.4] * 5) == 0
    assert candidates[choose(candidates, [0.1, 0.1, 0.1, 0.1, 0.3])].tau == 2.0


def with_gain(low, high, best=1, *, telling=True):
    result = sweep(FakeEmbedder(), retrieval(), grid([0.9]))
    gain = dataclasses.replace(result.scored[1].gain, low=low, high=high, telling=telling)
    scored = dataclasses.replace(result.scored[1], gain=gain)
    scored = (result.scored[0], scored)
    return dataclasses.replace(result, scored=scored, best=scored[best])


def test_by_length_nothing_is_compared_where_nothing_is_better():
    said = "\n".join(lines(with_gain(0.001, 0.1)))
    assert "the text that matters, τ = 1 and τ = 0.9\n" in said
    assert re.search(r"^ +tokens +questions +τ = 1 +best +gain", said, re.MULTILINE)
    said = "\n".join(lines(with_gain(0.001, 0.1, best=0)))
    assert "the text that matters, τ = 1\n" in said
    assert re.search(r"^ +tokens +questions +τ = 1$", said, re.MULTILINE)
    assert re.search(r"^ +\d+-\d+ +\d+ +0\.\d{4}$", said, re.MULTILINE)


def test_the_verdict_has_five_outcomes():
    assert verdict(with_gain(0.001, 0.1)).endswith(" (95 % interval +0.1 to +10.0); use it")
    assert verdict(with_gain(-0.001, 0.1)).startswith("no gain beyond noise; leave τ = 1: τ = 0.9 gives ")
    assert verdict(with_gain(0.0, 0.0)).startswith("no gain beyond noise")
    few = with_gain(0.001, 0.1, telling=False)
    assert verdict(few).startswith("too few of the held-out questions score differently to tell; leave τ = 1: τ = 0.9")
    assert few.chosen.tau == 1
    assert content(few)["candidates"][1]["gain"]["telling"] is False
    assert verdict(with_gain(-0.1, -0.001)).startswith("a loss beyond noise; leave τ = 1")
    assert verdict(with_gain(0.001, 0.1, best=0)).startswith("no other temperature does better than τ = 1 on the valid")
    for low, high, best, tau in ((0.001, 0.1, 1, 0.9), (-0.001, 0.1, 1, 1), (-0.2, -0.1, 1, 1), (0.001, 0.1, 0, 1)):
        assert with_gain(low, high, best).chosen.tau == tau


def test_the_grid_holds_laws_and_sides_and_nothing_twice():
    found = grid([1, 0.9, 0.9], ["none", "log:128", "piecewise:128:512"], ["both", "documents"])
    documents = Temperature()
    assert [one.temperature for one in found] == [
        documents,
        Temperature(0.9),
        Temperature(1.0, LogLength(128)),
        Temperature(0.9, LogLength(128)),
        Temperature(1.0, Piecewise(128, 512, 0.9)),
        Temperature(0.9, query=documents),
        Temperature(1.0, LogLength(128), query=documents),
        Temperature(0.9, LogLength(128), query=documents),
        Temperature(1.0, Piecewise(128, 512, 0.9), query=documents),
    ]
    assert str(found[5]) == "documents' τ = 0.9"
    assert str(found[3]) == "τ = 0.9 · log 128 / log n"


@pytest.mark.parametrize(
    ("taus", "laws", "sides", "message"),
    [
        ([1, 0], ["none"], ["both"], "each temperature of the grid must be finite and > 0, not 0"),
        ([-0.5], ["none"], ["both"], "finite and > 0, not -0.5"),
        ([math.nan], ["none"], ["both"], "finite and > 0, not nan"),
        ([math.inf], ["none"], ["both"], "finite and > 0, not inf"),
        (["0.9"], ["none"], ["both"], "finite and > 0, not '0.9'"),
        ([], ["none"], ["both"], "is empty"),
        ([1.0], ["none"], ["both"], "nothing but τ = 1"),
        ([1e-45], ["none"], ["both"], "finite and > 0"),
        ([0.9], ["log"], ["both"], "no law 'log'; there are none, log:N"),
        ([0.9], ["log:1"], ["both"], "at least 2 and .* tokens, not 1"),
        ([0.9], ["piecewise:9:3"], ["both"], "start < end"),
        ([0.9], ["none"], ["answers"], "no side 'answers'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(taus, laws, sides, message):
    with pytest.raises(InputError, match=message):
        grid(taus, laws, sides)


def test_sides_need_queries():
    with pytest.raises(InputError, match="sts has no queries and documents, so the side 'documents'"):
        sweep(FakeEmbedder(), tasks()["sts"], grid([0.9], sides=["documents"]))


def test_vectors_that_are_not_finite_are_refused():
    class Broken(FakeEmbedder):
        def encode_document(self, texts, *, temperature, show_progress_bar):
            return super().encode_document(texts, temperature=temperature, show_progress_bar=False) * np.inf

    with pytest.raises(InputError, match="at τ = 1 some vectors are not finite"), np.errstate(invalid="ignore"):
        sweep(Broken(), retrieval(), GRID)


def test_buckets_end_at_powers_of_two():
    found = buckets(np.array([3, 31, 32, 63, 64, 500, 9000, 2.5]), np.arange(7))
    assert [str(bucket) for bucket in found] == ["0-31", "32-63", "64-127", "256-511", "8192-16383"]
    assert [bucket.items.tolist() for bucket in found] == [[0, 1], [2, 3], [4], [5], [6]]


def test_the_length_is_that_of_the_most_relevant_documents():
    documents = ("0 a", "0 a b c", "0" + " a" * 40, "0" + " a" * 50)
    task = Retrieval(documents, ("0", "1"), ({0: 1, 1: 2}, {2: 1, 3: 1}))
    assert task.lengths(FakeEmbedder().count_tokens).tolist() == [6, 48]
    assert (
        tasks()["sts"].lengths(FakeEmbedder().count_tokens)[0]
        == max(len(t.split()) for t in tasks()["sts"].pairs[0]) + 2
    )


def test_the_report_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    result = sweep(FakeEmbedder(), retrieval(), grid([0.9, 0.8], ["none", "log:16"], ["both", "documents"]))
    write(result, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "by_length.csv",
        "report.json",
        "scores.csv",
        "sweep.png",
    ]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    rows = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + len(report["candidates"]) == 1 + len(result.scored)
    assert rows[2].split(",")[:4] == ["τ = 0.9", "0.9", "none", "both"]
    assert float(rows[2].split(",")[6]) == report["candidates"][1]["gain"]["difference"]
    assert Temperature.from_json(report["candidates"][3]["temperature"]) == result.scored[3].candidate.temperature
    assert (tmp_path / "out" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(tsjax.OutputError, match="exists already"):
        write(result, tmp_path / "out")
    monkeypatch.setattr("tsjax.lab.evaluation.report.draw", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(result, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_has_no_value_is_no_nan(tmp_path):
    """A bucket of one pair has no correlation."""
    pairs = tuple((f"{i % 3} {i}", f"1 {i}" + " x" * (500 if i == 7 else 3)) for i in range(20))
    task = STS(pairs, tuple(float(i % 5) for i in range(20)))
    seed = next(seed for seed in range(9) if 7 in task.split(seed).held_out)
    result = sweep(FakeEmbedder(), task, GRID, seed=seed)
    assert math.isnan(result.by_length[-1].best)
    printed = "\n".join(lines(result))
    assert "nan" not in printed
    assert "only 10 held-out pairs: do not rely on the interval" in printed
    write(result, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["by_length"][-1]["best"] is None
    assert "nan" not in (tmp_path / "out" / "by_length.csv").read_text()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ir_measures", None)
    with pytest.raises(tsjax.MissingExtraError, match=r"needs ir-measures; install it with: .*tsjax\[lab\]"):
        sweep(FakeEmbedder(), retrieval(), GRID)
