"""The paper's experiment on a stand-in task and checkpoint: measured once, kept, shown, and chosen."""

import json

import pytest

import tsjax
from tests.support.checkpoints import write_sentence_transformers
from tests.support.lazy import needs
from tests.support.mteb_tasks import passages, retrieval_task

pytestmark = [
    needs("mteb"),
    pytest.mark.torch,
    pytest.mark.slow,  # Importing MTEB takes as long as the tests.
    pytest.mark.filterwarnings("ignore:.* were cut:tsjax.errors.TruncationWarning"),
]


@pytest.fixture(scope="module")
def script():
    from scripts.lab import reproduce_tempscale

    return reproduce_tempscale


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_sentence_transformers(tmp_path_factory.mktemp("model") / "small"))


@pytest.fixture
def columns():
    return {
        "Retrieval": [retrieval_task(*passages(count=15), name="First")],
        "LongEmbed": [retrieval_task(*passages(count=15, seed=1), name="Second")],
    }


def test_a_stopped_run_goes_on_and_the_table_shows_what_was_measured(script, checkpoint, columns, tmp_path, capsys):
    arguments = ["--models", checkpoint, "--temperatures", "0.3", "--results", str(tmp_path / "results")]
    script.main(arguments, columns)
    printed = capsys.readouterr().out
    paths = sorted((tmp_path / "results").rglob("*.json"))
    assert [(path.parent.name, path.stem) for path in paths] == [
        (tau, task) for tau in ("tau-0.3", "tau-1") for task in ("First", "Second")
    ]
    score = {(path.parent.name, path.stem): json.loads(path.read_text())["main_score"] for path in paths}
    cells = [f"{100 * score['tau-1', task]:.2f}" for task in ("First", "Second")]
    assert f"| {checkpoint} | 1 | {cells[0]} | {cells[1]} |" in printed
    assert "τ of each model chosen on: Retrieval, LongEmbed" in printed

    # One result is missing, as after a stop: only it is made again, with the same value.
    paths[1].unlink()
    times = {path: path.stat().st_mtime_ns for path in paths if path.exists()}
    script.main(arguments, columns)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert json.loads(paths[1].read_text())["main_score"] == score["tau-0.3", "Second"]
    assert printed.partition("| model")[2] == capsys.readouterr().out.partition("| model")[2]

    content = json.loads(paths[0].read_text())
    assert content["fingerprint"] == tsjax.load(checkpoint, temperature=0.3).encoding_fingerprint
    assert content["main_score"] == content["scores"]["test"][0]["ndcg_at_10"]


def test_nothing_is_loaded_where_every_result_is_there(script, columns, tmp_path):
    path = script.result_path(tmp_path, "nobody/has-this", 1.0, "First")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    script.measure({"nobody/has-this": {}}, [1.0], {"Retrieval": columns["Retrieval"]}, tmp_path)


def test_without_the_hub_it_says_so_and_shows_what_there_is(script, columns, tmp_path, capsys):
    with pytest.raises(
        SystemExit, match=r"nobody/has-this is not here and cannot be fetched(.|\n)*needs the Hugging Face hub"
    ):
        script.main(["--models", "nobody/has-this", "--results", str(tmp_path)], columns)
    assert "| nobody/has-this | 1 | – | – | – |" in capsys.readouterr().out


def test_without_its_data_a_task_is_named(script, checkpoint, columns, tmp_path):
    [task] = columns["Retrieval"]

    def load_data(*_, **__):
        raise ConnectionError("Couldn't reach 'somewhere' on the Hub")

    task.load_data = load_data
    with pytest.raises(script.UnreachableError, match="First is not here and cannot be fetched: Couldn't reach"):
        script.measure({checkpoint: {}}, [1.0], columns, tmp_path)


def test_other_failures_are_not_taken_for_a_missing_hub(script):
    def fail():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        script._reached("x", fail)


def test_tau_is_chosen_on_the_columns_that_are_asked_for(script):
    columns = {"A": ["a"], "B": ["b"]}
    known = script.Scores(
        "m",
        {
            1.0: {"A": {"a": 0.5}, "B": {"b": 0.5}},
            0.9: {"A": {"a": 0.6}, "B": {"b": 0.3}},
            0.8: {"A": {"a": 0.9}, "B": {}},  # not finished
        },
    )
    assert script.best_temperature(known, columns, ["A", "B"]) == 1.0
    assert script.best_temperature(known, columns, ["A"]) == 0.8
    assert script.best_temperature(known, columns, ["B"]) == 1.0
    lines = list(script.table([known], columns, ["A"]))
    assert lines[2:] == ["| m | 1 | 50.00 | 50.00 | 50.00 |", "| + TempScale | 0.8 | 90.00 | – | – |"]


def test_results_of_other_options_are_not_mixed_in(script, tmp_path, columns):
    path = script.result_path(tmp_path, "m", 1.0, "First")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"options": {"max_seq_length": 3}, "main_score": 1.0}))
    with pytest.raises(ValueError, match=r"First.json was made with other options"):
        script.read({"m": {}}, [1.0], columns, tmp_path)


def test_an_unknown_column_is_refused(script, columns, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main(["--columns", "Nonsense", "--results", str(tmp_path)], columns)
    assert "'Nonsense' is none of the columns Retrieval, LongEmbed" in capsys.readouterr().err


def test_the_papers_tasks_exist(script):
    columns = script.standard_columns()
    assert list(columns) == [*script.TYPES, "LongEmbed"]
    assert all(columns.values())
    assert {task.metadata.main_score for task in columns["LongEmbed"]} == {"ndcg_at_10"}
