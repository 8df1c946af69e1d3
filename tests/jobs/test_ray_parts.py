"""The parts of the Ray engine, without a cluster."""

import contextlib
import io
import json
import random
import re
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tsjax
from tests.support import batch_jobs
from tsjax.errors import InputError, MissingExtraError, OutputError
from tsjax.jobs.input.columns import Columns
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.job import Job, Model, Options
from tsjax.jobs.output.directory import Output
from tsjax.jobs.plan import ALONE, Piece, Plan, ShardKey
from tsjax.jobs.ray import Embed
from tsjax.jobs.ray import cluster as ray_cluster
from tsjax.jobs.ray.actors import Failure, ModelSource, ShardMaker, Work, settle
from tsjax.jobs.ray.progress import Board, Told, watching
from tsjax.jobs.run.accounting import Books
from tsjax.jobs.run.progress import Reporter
from tsjax.jobs.run.worker_loop import JobRunner


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=80)


@pytest.fixture(scope="module")
def embed(model):
    return Embed(str(model))


# -- pieces -----------------------------------------------------------------------------------------------------------


def test_each_shard_is_of_one_piece(tmp_path):
    for name, size in [("a", 10), ("b", 10), ("c", 1000), ("d", 0), ("e", 90)]:
        (tmp_path / name).write_bytes(b"x\n" * (size // 2))
    plan = Plan.of(find_sources([str(tmp_path / "*")]), 4, group_bytes=25)
    for least in (1, 2, 8, 40):
        pieces = plan.pieces(least)
        assert len(pieces) >= least
        assert {piece.count for piece in pieces if piece.group == 0} == {1}  # A small group is not divided.
        for key in (ShardKey(group, index) for group in range(4) for index in range(50)):
            assert sum(plan.is_for(piece, key) for piece in pieces) == 1
    large = [piece for piece in plan.pieces(8) if piece.group == 1]
    assert large == [Piece(1, index, 8) for index in range(8)]
    assert plan.groups_for(large[3]) == [1]
    assert plan.share_of(large[3]) == 1 / 8


@pytest.mark.slow
def test_two_at_the_same_piece_at_once_end_with_the_right_bytes(model, corpus, tmp_path):
    """A node may be declared dead, and its piece given to another node, while it is still alive."""
    options = Options(columns=Columns(id="id"), rows_per_shard=16)
    plan = Plan.of(find_sources(corpus), 16)
    loaded = Model.of(tsjax.load(model))
    JobRunner(loaded, options, plan, Output(tmp_path / "whole")).run()
    whole = batch_jobs.contents(tmp_path / "whole")
    output = Output(tmp_path / "out")
    (piece,) = plan.pieces(1)
    with output.working(ALONE) as partial:
        runners = [JobRunner(loaded, options, plan, output) for _ in range(2)]
        books = Books(output, plan, runners[0].join())
        folders = [partial / name for name in ("one", "other")]
        threads = [
            threading.Thread(target=runner.make, args=(books, piece, {}, folder))
            for runner, folder in zip(runners, folders, strict=True)
        ]
        for folder, thread in zip(folders, threads, strict=True):
            folder.mkdir()
            thread.start()
        for thread in threads:
            thread.join()
        assert not any(list(folder.iterdir()) for folder in folders)
        first = {path: path.stat().st_mtime_ns for path in output.vectors.iterdir()}
        # A third attempt comes after everything is done, and leaves the files unchanged.
        runners[0].make(books, piece, {}, folders[0])
        assert {path: path.stat().st_mtime_ns for path in output.vectors.iterdir()} == first
        assert len(books.mine(ALONE)) == 5
    found = batch_jobs.contents(tmp_path / "out")
    assert found == {name: content for name, content in whole.items() if "shard-" in name}


# -- instructions to a node -------------------------------------------------------------------------------------------


def work(model, corpus, output, **changes):
    sources = find_sources(corpus)
    more = {
        "source": ModelSource(model=str(model)),
        "options": Options(rows_per_shard=16),
        "plan": Plan.of(sources, 16),
        "output": str(output),
        "on_error": "reject",
        "resources": {"memory": 1},  # which changes nothing in this process
    }
    return Work(**{**more, **changes})


def test_settling_a_job(model, corpus, tmp_path):
    output = Output(tmp_path / "out")
    with output.working(ALONE):
        facts = settle(work(model, corpus, output.path))
    options, plan = Options(rows_per_shard=16), Plan.of(find_sources(corpus), 16)
    job = Job.of(Model.of(tsjax.load(model)), options, plan)
    assert facts == job.facts
    # An actor refuses to start if a setting gives it another model.
    runner = JobRunner(Model.of(tsjax.load(model, temperature=0.9)), options, plan, output)
    with pytest.raises(
        InputError, match=r"other vectors than the job's: model\.temperature\.value was 1\.0 and is 0\.9"
    ):
        runner.join_as(job)


def test_a_node_that_does_not_share_the_output(model, corpus, tmp_path):
    failure = settle(work(model, corpus, tmp_path / "elsewhere"))
    assert isinstance(failure, Failure)
    with pytest.raises(InputError, match=r"elsewhere is not here as it is at the driver.*\(on the node "):
        raise failure.error()
    assert not (tmp_path / "elsewhere").exists()
    assert isinstance(Failure.of(OutputError("full")).error(), OutputError)


class FakeActor:
    """A board in this process that does at once what Ray would do with its methods."""

    def __init__(self, board):
        for name in ("tell", "read"):
            method = getattr(board, name)
            setattr(self, name, SimpleNamespace(remote=method))


def test_an_actor_makes_a_piece_and_refuses_with_another_model(model, corpus, tmp_path):
    pytest.importorskip("ray", reason="needs tsjax[ray]")
    board = Board([30.0, 20.0])
    with (output := Output(tmp_path / "out")).working(ALONE) as partial:
        rightly = work(model, corpus, output.path)
        facts = settle(rightly)
        other = work(model, corpus, output.path, source=ModelSource(model=str(model), options={"temperature": 0.9}))
        batch = {name: np.array([value]) for name, value in {"number": 1, "group": 0, "index": 1, "count": 2}.items()}
        row = ShardMaker(other, facts, str(partial), FakeActor(board))(batch)
        assert row["error"].tolist() == ["InputError"]
        assert "model.temperature.value was 1.0 and is 0.9 now (on the node" in row["sentence"][0]
        assert not list(output.vectors.iterdir())
        maker = ShardMaker(rightly, facts, str(partial), FakeActor(board))
        row = maker(batch)
        assert {name: value.tolist() for name, value in row.items()} == {
            "number": [1],
            "shards": [2],
            "damaged": [0],
            "error": [""],
            "sentence": [""],
        }
        assert not list(partial.iterdir())
        told = board.read()
        assert (told.texts, told.shards, told.left) == (32, 2, 30.0)
        assert told.tokens == sum(json.loads(path.read_text())["tokens"] for path in output.records.iterdir())
        assert 0 < told.read <= sum(Path(path).stat().st_size for path in corpus)
        assert maker(batch)["shards"].tolist() == [2]  # Completed shards are skipped.
        assert board.read() == told
        (output.vectors / "shard-00000-00003.parquet").unlink()
        assert maker(batch)["damaged"].tolist() == [1]


def test_what_the_driver_says_of_it():
    class RayError(Exception):
        pass

    def get(reference, timeout):
        if isinstance(reference, Exception):
            raise reference
        return reference

    ray, clock, stream = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError), get=get), [0.0], io.StringIO()
    board = Board([100.0, 100.0])
    board.tell(0, "a", Told(texts=30, tokens=300, computed_tokens=400, shards=2, rejected=1, read=50.0, left=50.0))
    reporter = Reporter(stream, as_json=True, clock=lambda: clock[0])
    with watching(ray, FakeActor(board), reporter):
        clock[0] = 10.0
    figures = reporter.figures()
    assert figures == {
        "seconds": 10.0,
        "shards": 2,
        "rejected": 1,
        "texts": 30,
        "tokens": 300,
        "texts_per_second": 3.0,
        "tokens_per_second": 30.0,
        "padding_share": 0.25,
        "eta_seconds": 30,
    }
    lost = SimpleNamespace(read=SimpleNamespace(remote=lambda: RayError("the board is lost")))
    with watching(ray, lost, reporter):
        pass


def test_a_models_relative_path_is_the_drivers(model, monkeypatch):
    monkeypatch.chdir("/")
    source = ModelSource(model="model", folder=str(Path(model).parent))
    assert source.load().embedder.embedding_dimension == 36
    assert Path.cwd() == Path("/")


# -- resources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"TPU": 4}', {"num_cpus": 0, "resources": {"TPU": 4}}),
        ('{"GPU": 1}', {"num_cpus": 0, "num_gpus": 1}),
        ('{"GPU": 0.5, "CPU": 2}', {"num_cpus": 2, "num_gpus": 0.5}),
        ('{"CPU": 2, "memory": 1e9}', {"num_cpus": 2, "memory": 1e9}),
    ],
)
def test_resources_are_what_ray_takes(text, arguments):
    assert ray_cluster.remote_arguments(ray_cluster.parse_resources(text)) == arguments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TPU=4", """resources are JSON such as {"TPU": 4} or {"GPU": 1}, not 'TPU=4'"""),
        ("[1]", "resources are names with numbers"),
        ("{}", "resources are names with numbers"),
        ('{"TPU": "4"}', "the number of the resource TPU must be finite and >= 0, not '4'"),
        ('{"GPU": -1}', "the number of the resource GPU must be finite and >= 0, not -1"),
        ('{"GPU": true}', "not True"),
        ('{"GPU": Infinity}', "not inf"),
        ('{"": 1}', "a resource has a name"),
        ('{"GPU": 0}', "an actor needs some resource"),
    ],
)
def test_resources_that_are_none(text, message, capsys, tmp_path):
    with pytest.raises(InputError) as raised:
        ray_cluster.parse_resources(text)
    assert message in str(raised.value)


def test_what_an_actor_has_where_nobody_says():
    gpus, tpus, cpus = {"CPU": 64, "GPU": 8}, {"CPU": 96, "TPU": 4, "TPU-v5e-8-head": 1}, {"CPU": 16}
    assert ray_cluster.usual_resources([cpus, gpus, tpus]) == {"GPU": 1}
    assert ray_cluster.usual_resources([cpus, tpus]) == {"TPU": 4}
    assert ray_cluster.usual_resources([{"CPU": 0}, cpus, {"CPU": 8}]) == {"CPU": 8}
    assert ray_cluster.usual_resources([{}]) == {"CPU": 1}
    assert ray_cluster.fitting({"GPU": 1}, [gpus, gpus, cpus]) == 16
    assert ray_cluster.fitting({"GPU": 0.5, "CPU": 8}, [gpus]) == 8
    assert ray_cluster.fitting({"TPU": 4}, [gpus]) == 0


def test_a_process_keeps_to_its_share(monkeypatch):
    environment = {"RAYON_NUM_THREADS": "7"}
    monkeypatch.setattr(ray_cluster.os, "environ", environment)
    ray_cluster.settle_process({"GPU": 1, "CPU": 2})
    assert environment == {"RAYON_NUM_THREADS": "7"}
    ray_cluster.settle_process({"CPU": 3})
    assert environment == {"RAYON_NUM_THREADS": "7", "NPROC": "3"}  # The user's choice stays.
    ray_cluster.settle_process({"GPU": 0.5})
    assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.375"
    environment |= {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
    ray_cluster.settle_process({"TPU": 4})
    tpu = {name: value for name, value in environment.items() if "TPU" in name}
    assert tpu == {
        "CLOUD_TPU_TASK_ID": "0",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_VISIBLE_CHIPS": "0,1,2,3",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }


def test_what_the_actors_tell():
    board = Board([100.0, 50.0])
    assert board.read() == Told(left=150.0)
    board.tell(0, "a", Told(texts=3, tokens=30, computed_tokens=40, shards=1, read=20.0, left=80.0))
    board.tell(1, "b", Told(texts=1, tokens=10, computed_tokens=10, read=5.0, left=45.0))
    board.tell(0, "a", Told(texts=5, tokens=50, computed_tokens=60, shards=2, read=40.0, left=60.0))
    board.tell(0, "c", Told(texts=1, tokens=9, computed_tokens=9, read=1.0, left=59.0))  # another attempt
    assert board.read() == Told(texts=7, tokens=69, computed_tokens=79, shards=2, read=46.0, left=104.0)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--address", "auto"], "--address has a meaning only with --engine ray"),
        (["--resources", "{}"], "--resources has a meaning only with --engine ray"),
        (["--concurrency", "2"], "--concurrency has a meaning only with --engine ray"),
        (["--engine", "ray", "--shard", "0/2"], "--engine ray shares the job out"),
        (["--engine", "ray", "--resources", "4"], "resources are names with numbers"),
        (["--engine", "ray", "--concurrency", "0"], "concurrency must be a whole number of at least 1, not 0"),
    ],
)
def test_options_that_do_not_go_together(model, corpus, tmp_path, capsys, more, message):
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ray_is_an_extra(model, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out", "--engine", "ray")) == 2
    assert "pip install 'tsjax[ray]'" in capsys.readouterr().err
    with pytest.raises(MissingExtraError), contextlib.ExitStack() as stack:
        stack.enter_context(ray_cluster.connected(None))


def test_a_cluster_that_does_not_answer(model, corpus, tmp_path, capsys, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs tsjax[ray]")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever other tests have left
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--engine", "ray")
        for more in (["--address", address], ["--address", f"ray://{address}"], []):
            monkeypatch.setenv("RAY_ADDRESS", address)
            assert batch_jobs.run(*command, *more) == 2
            assert re.search(rf"no Ray cluster answers at (ray://)?{address}: .*refused", capsys.readouterr().err)


# -- Embed ------------------------------------------------------------------------------------------------------------


def test_embed_adds_a_column(embed, model):
    rng = random.Random(0)
    texts = np.array([batch_jobs.make_text(rng) for _ in range(9)], object)
    batch = {"n": np.arange(9), "text": texts}
    found = embed(batch)
    assert list(found) == ["n", "text", "embedding"]
    assert found["embedding"].dtype == np.float32
    np.testing.assert_array_equal(found["embedding"], tsjax.load(model).encode(texts.tolist()))
    assert list(batch) == ["n", "text"]
    np.testing.assert_array_equal(embed({**batch, "text": texts.astype(str)})["embedding"], found["embedding"])
    assert embed({"text": np.array([], object)})["embedding"].shape == (0, 36)


def test_embed_names_a_row_that_is_no_text(embed, model):
    batch = {"id": np.array(["a", "b", "c"]), "v": np.zeros((3, 2)), "text": np.array(["the", None, 3], object)}
    with pytest.raises(
        InputError, match=r"row 1 of a batch of 3 \(id = 'b'\): 'text' is no text: None; bad_rows='nan'"
    ):
        embed(batch)
    vectors = Embed(str(model), bad_rows="nan")(batch)["embedding"]
    assert np.isnan(vectors[1:]).all()
    np.testing.assert_array_equal(vectors[0], tsjax.load(model).encode("the"))
    with pytest.raises(InputError, match="the batch has no column 'text'; it has 'words'"):
        embed({"words": batch["text"]})
    with pytest.raises(InputError, match="must be a dict of numpy arrays"):
        embed(["the"])
    with pytest.raises(InputError, match="bad_rows 'skip' does not exist"):
        Embed(str(model), bad_rows="skip")
    with pytest.raises(InputError, match="task 'x' does not exist"):
        Embed(str(model), task="x")
    with pytest.raises(InputError, match="'text' must be an array of texts, not list"):
        embed({"text": ["the"]})
    with pytest.raises(InputError, match=r"row 0 of a batch of 1: 'text' is no text: None"):
        embed({"empty": np.array([]), "text": np.array([None])})
    mixed = np.array([None, "the", "a\ud800"], object)
    with pytest.raises(InputError, match=r"row 1 of a batch of 2: 'text' has a lone surrogate: 'a\\ud800'"):
        embed({"text": mixed[1:]})
    assert np.isnan(Embed(str(model), bad_rows="nan")({"text": mixed})["embedding"]).all(axis=1).tolist() == [1, 0, 1]
