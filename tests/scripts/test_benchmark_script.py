"""scripts/benchmark/run.py without the engines that it compares: the pipe, the turns, the table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

STAND_IN = """
import time
import numpy as np
from scripts.benchmark.worker import serve

class StandIn:
    def encode(self, texts):
        print("this must not get into the answers")
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    def network(self, ids):
        assert ids.dtype == np.int32
        return ids.sum

    def warm(self, run):
        run()
        return {"padding_share": 0.25, "compiled_shapes": 3}

    def matrix_rate(self, width, wide, tokens):
        return float(width * wide * tokens)

    def about(self):
        return {"versions": {"stand-in": "1"}, "dtype": "float32", "device": "none"}

serve(StandIn)
"""


@pytest.fixture
def scripts():
    from scripts.benchmark import run, table, worker
    from scripts.verify import readme_table

    return {"benchmark": run, "benchmark_table": table, "benchmark_worker": worker, "readme_table": readme_table}


@pytest.fixture
def worker(scripts, tmp_path):
    def start(code=STAND_IN):
        (tmp_path / "engine.py").write_text(code)
        environment = {"PYTHONPATH": str(ROOT)}
        started = scripts["benchmark_worker"].Worker(
            [sys.executable, str(tmp_path / "engine.py")], tmp_path / "log", environment
        )
        running.append(started)
        return started

    running = []
    yield start
    for one in running:
        one.close()


def state(process):
    """Return the state of a process: T means stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_worker_answers_and_is_stopped_in_between(worker, tmp_path):
    one = worker()
    assert one.ask("about")["versions"] == {"stand-in": "1"}
    assert state(one._process.pid) == "T"
    (tmp_path / "w.json").write_text(json.dumps({"texts": ["a", "bcd"]}))
    assert one.ask("prepare", file=str(tmp_path / "w.json"))["compiled_shapes"] == 3
    assert len(one.ask("run", limits={"calls": 4, "seconds": 60})["seconds"]) == 4
    assert len(one.ask("run", limits={"calls": 4, "seconds": 0})["seconds"]) == 1
    one.ask("vectors", file=str(tmp_path / "w.json"), out=str(tmp_path / "v.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), [[1, 1], [3, 1]])
    assert one.ask("matrix_rate", sizes={"width": 2, "wide": 3, "tokens": 4}) == {"rate": 24.0}
    (tmp_path / "w.json").write_text(json.dumps({"ids": [[1, 2], [3, 4]]}))
    one.ask("prepare", file=str(tmp_path / "w.json"))
    one.ask("run", limits={"calls": 1, "seconds": 60})
    assert "must not get into the answers" in (tmp_path / "log").read_text()


def test_what_goes_wrong_in_a_worker_is_told(worker, tmp_path):
    one = worker()
    with pytest.raises(RuntimeError, match=r"could not prepare .*FileNotFoundError"):
        one.ask("prepare", file=str(tmp_path / "missing.json"))
    with pytest.raises(RuntimeError, match="cannot 'dance'"):
        one.ask("dance")
    assert one.ask("about")["device"] == "none", "it goes on"


def test_a_worker_that_dies_is_told_with_its_last_words(worker):
    with pytest.raises(RuntimeError, match=r"ended while it had to about .*no such engine"):
        worker("raise SystemExit('no such engine')").ask("about")


def test_engines_take_turns_and_ratios_are_of_the_same_round(scripts, tmp_path):
    asked = []

    class Scripted:
        worked = 0.0

        def __init__(self, name, seconds):
            self.name, self.seconds = name, iter(seconds)

        def ask(self, do, **details):
            asked.append((self.name, do))
            if do == "prepare":
                return {"padding_share": 0.0}
            return {"seconds": [next(self.seconds)] * 3, "peak_resident": 1}

    benchmark = scripts["benchmark"]
    crew = {"tsjax": Scripted("tsjax", [1.0, 2.0, 4.0]), "other": Scripted("other", [2.0, 3.0, 12.0])}
    model = type("Header", (), {"metadata": type("Metadata", (), {"model": small_model()})})
    found = benchmark.measure(crew, {"texts": ["a", "b"], "lengths": [3, 5]}, tmp_path, model, 3)
    assert asked == [("tsjax", "prepare"), ("other", "prepare"), *([("tsjax", "run"), ("other", "run")] * 3)]
    assert found["ratios"] == {"other": {"median": 2.0, "min": 1.5, "max": 3.0}}
    assert found["engines"]["tsjax"]["tokens_per_second"] == 4.0
    assert (found["texts"], found["tokens"]) == (2, 8)


def small_model():
    from tsjax.model.config import EncoderConfig, ModelConfig

    sizes = {"vocab_size": 11, "hidden_size": 4, "num_layers": 2, "num_heads": 2, "intermediate_size": 8}
    return ModelConfig(encoder=EncoderConfig(**sizes, max_positions=8))


def results():
    def engine(seconds, **more):
        return {"seconds": [seconds], "tokens_per_second": 8 / seconds, "operations_per_second": 100 / seconds, **more}

    ratio = {"other": {"median": 1.5, "min": 1.25, "max": 1.75}}
    texts = {
        "texts": 2,
        "engines": {"tsjax": engine(0.5, padding_share=0.125, compiled_shapes=4), "other": engine(0.75)},
        "ratios": ratio,
        "others": 0.03,
    }
    query = {"texts": 1, "engines": {"tsjax": engine(0.004), "other": engine(2.5)}, "ratios": ratio}
    start = {"texts": 1, "engines": {"tsjax": {"seconds": [3.25]}}, "ratios": {}}
    about = {"versions": {"x": "1"}, "dtype": "float32", "device": "cpu"}
    return {
        "date": "2026-11-24T00:00:00",
        "machine": {"cpu": "A CPU", "cores": 2, "memory_gb": 25.3, "python": "3.11.7"},
        "versions": {"x": "1"},
        "models": {
            "minilm": {
                "engines": {"tsjax": about, "other": about},
                "matrix_operations_per_second": 400.0,
                "difference_from_reference": {"tsjax": 2e-7, "sentence-transformers": 0.0},
                "workloads": {"mixed": texts, "32x128": texts, "query": query, "start, cold": start},
            }
        },
    }


def test_the_table_has_ratios_first_and_lines_up(scripts):
    lines = list(scripts["benchmark_table"].table(results(), ["tsjax", "other"]))
    assert "2026-11-24" in lines[0]
    assert "A CPU, 2 cores, 25.3 GB" in lines[0]
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["model", "work", "× other", "tsjax", "other", "padding", "shapes", "of the limit"]
    mixed = ["1.50 (1.25–1.75)", "16 tokens/s", "11 tokens/s", "12.5%", "4", "50%"]
    assert cells[2] == ["minilm", "texts of 10 to 512 tokens", *mixed]
    assert cells[3][1] == "32 × 128"
    assert cells[4][3:5] == ["4.0 ms", "2.5 s"]
    assert cells[5][2:] == ["", "3.2 s", "", "", "", ""]
    assert "minilm: tsjax 2.0e-07." in lines[-2]
    assert lines[-1] == "Other processes took 3% of the cores, 3% at most."


def test_a_busy_machine_is_named_in_the_table(scripts):
    busy = results()
    busy["models"]["minilm"]["workloads"]["mixed"]["others"] = 0.5
    assert "measure again on an idle one" in list(scripts["benchmark_table"].table(busy, ["tsjax", "other"]))[-1]


def test_a_table_takes_the_place_of_the_one_before(scripts, tmp_path, monkeypatch):
    module = scripts["readme_table"]
    monkeypatch.setattr(module, "README", tmp_path / "README.md")
    module.README.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n", encoding="utf-8")
    for _ in range(2):
        module.write_table("x", ["| new |", "| τ |"])
        expected = "a\n<!-- x: begin -->\n| new |\n| τ |\n<!-- x: end -->\nb\n"
        assert module.README.read_text(encoding="utf-8") == expected
    with pytest.raises(ValueError, match="no markers for the table 'y'"):
        module.write_table("y", [])


def test_the_readme_has_a_place_for_each_table(scripts):
    text = scripts["readme_table"].README.read_text(encoding="utf-8")
    for name in ("families", "benchmark"):
        assert text.count(f"<!-- {name}: begin -->\n") == text.count(f"<!-- {name}: end -->\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "gpt"], "'gpt' is none of minilm, bert-base"),
        (["--engines", "tsjax,x"], "'x' is none of"),
        (["--workloads", "mixed,x"], "'x' is none of"),
        (["--workloads", "8x1024"], "'8x1024' is none of"),
        (["--rounds", "0"], "'0' is not a whole number"),
    ],
)
def test_a_bad_option_is_said(scripts, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    with pytest.raises(SystemExit):
        scripts["benchmark"].parse()
    assert message in capsys.readouterr().err


def test_other_lengths_and_shapes_can_be_asked_for(scripts, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--workloads", "200,64x64,corpus", "--device", "gpu"])
    options = scripts["benchmark"].parse()
    assert options.workloads == ["200", "64x64", "corpus"]
    assert options.engines == ["tsjax", "sentence-transformers"]


def test_a_sample_of_a_corpus_ends_at_its_tokens(scripts, minilm, tmp_path):
    (tmp_path / "c.txt").write_text("".join(f"line number {i} of a corpus\n\n" for i in range(300)), encoding="utf-8")
    tokenizer = minilm._tokenizer
    texts = scripts["benchmark"].sample(str(tmp_path / "c.txt"), tokenizer, 1000)
    tokens = tokenizer.encode(texts).lengths.sum()
    assert 1000 <= tokens < 1012
    assert len(set(texts)) == len(texts)
    assert len(scripts["benchmark"].sample(str(tmp_path / "c.txt"), tokenizer, 10**6)) == 300
