"""Jobs on a real Ray cluster of several nodes, some of which are killed: the output equals that of a single machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import tsjax
from tests.support import batch_jobs, lance_tables
from tests.support.lazy import lazy, needs
from tests.support.ray_cluster import NodesOfACluster
from tsjax.jobs.ray import Embed

ray = lazy("ray")

# Ray Data warns of its own default settings.
pytestmark = [
    needs("ray"),
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray.data.context"),
]

SHARDS = 150


@pytest.fixture(scope="module")
def cluster():
    cluster = NodesOfACluster(2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.close()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=16 * SHARDS)


MORE = ("--id-column", "id", "--keep", "title")


def command(model, corpus, output, *more):
    return batch_jobs.arguments(model, corpus, output, *MORE, *more)


@pytest.fixture(scope="module")
def whole(model, corpus, tmp_path_factory):
    """Return the output of one machine."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert batch_jobs.run(*command(model, corpus, output)) == 0
    return output


def ray_command(*arguments):
    return command(*arguments, "--engine", "ray")


class Watch:
    """A thread that does something once a job has a given number of shards.

    The attribute `shards` then says how many there were.
    """

    def __init__(self, output, shards, act):
        self._output, self._wanted, self._act = output, shards, act
        self.shards, self._error = None, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self._stop.wait(0.005):
            found = shards_in(self._output)
            if found >= self._wanted:
                try:
                    self._act()
                except BaseException as error:
                    self._error = error
                self.shards = shards_in(self._output)
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *raised):
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self.shards is not None, "the job ended before"
        assert self.shards < SHARDS, "the job had ended"


def shards_in(output):
    return len(list((output / "records").glob("*.json")))


def actors_at(output):
    """Return the process ids of the actors that are making shards."""
    return {int(path.name.split("-")[-2]) for path in (output / ".tsjax").glob("00000-of-00001-*/*-*-*")}


def tokens_of(output, shards=slice(None)):
    records = [json.loads(path.read_text()) for path in sorted((output / "records").iterdir())[shards]]
    return sum(record["tokens"] for record in records)


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_bytes_are_those_of_one_machine(cluster, model, corpus, whole, tmp_path, capsys):
    output, actors = tmp_path / "out", set()

    def several():
        wait_until(lambda: actors.update(actors_at(output)) or len(actors) == 2)

    with Watch(output, 1, several):  # The actors share one file.
        assert batch_jobs.run(*ray_command(model, corpus, output)) == 0
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)
    said = capsys.readouterr().err
    assert f" {tokens_of(whole):,} tokens in " in said
    assert "actors on Ray: 2, each with {'CPU': 1.0}; nodes: 3\n" in said
    assert f"{SHARDS} shards ({SHARDS} computed now)" in said
    assert not list((output / ".tsjax").glob("*/*"))
    assert batch_jobs.run("batch", "verify", output) == 0
    assert batch_jobs.run("batch", "status", output) == 0
    assert "worker 0 of 1: finished" in capsys.readouterr().out
    assert batch_jobs.run(*command(model, corpus, output)) == 0  # on one machine
    assert f"{SHARDS} shards (0 computed now)" in capsys.readouterr().err


def test_a_node_is_killed(cluster, model, corpus, whole, tmp_path):
    output = tmp_path / "out"
    driver = ray.get_runtime_context().get_node_id()
    with Watch(output, 10, lambda: cluster.kill_node(driver)):
        assert batch_jobs.run(*ray_command(model, corpus, output)) == 0
    cluster.mend()
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)
    assert batch_jobs.run("batch", "verify", output) == 0


def test_an_actor_is_killed(cluster, model, corpus, whole, tmp_path):
    output, killed = tmp_path / "out", []

    def kill():
        wait_until(lambda: actors_at(output))
        killed.append(min(actors_at(output)))
        os.kill(killed[0], 9)

    with Watch(output, 10, kill):
        assert batch_jobs.run(*ray_command(model, corpus, output)) == 0
    assert killed
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)
    assert batch_jobs.run("batch", "verify", output) == 0


def test_the_driver_is_killed_and_started_again(cluster, model, corpus, whole, tmp_path):
    output = tmp_path / "out"
    arguments = [*ray_command(model, corpus, output), "--address", cluster.address]
    code = "import sys; from tsjax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, *arguments], stderr=log)
        wait_until(lambda: shards_in(output) >= 10 or driver.poll() is not None)
        driver.kill()
        assert driver.wait() == -9, (tmp_path / "log").read_text()
    assert 10 <= shards_in(output) < SHARDS
    # Do this at once: actors of the first job may still be alive.
    assert batch_jobs.run(*ray_command(model, corpus, output)) == 0
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)
    assert batch_jobs.run("batch", "verify", output) == 0


def test_either_engine_goes_on_with_the_others_output(cluster, model, corpus, whole, tmp_path, capsys):
    output = shutil.copytree(whole, tmp_path / "out")
    vectors, records = output / "vectors", output / "records"
    (records / "shard-00000-00003.json").unlink()
    (vectors / "shard-00000-00004.parquet").unlink()
    (vectors / "shard-00000-00005.parquet").write_bytes(b"damaged")
    untouched = (vectors / "shard-00000-00006.parquet").stat().st_mtime_ns
    assert batch_jobs.run(*ray_command(model, corpus, output)) == 0
    said = capsys.readouterr().err
    assert f"there already: {SHARDS - 1} shards" in said
    assert f"{SHARDS} shards (3 computed now)" in said
    assert f" {tokens_of(whole, slice(3, 6)):,} tokens in " in said
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)
    assert (vectors / "shard-00000-00006.parquet").stat().st_mtime_ns == untouched
    # One machine finishes the job that Ray has begun.
    (records / "shard-00000-00007.json").unlink()
    assert batch_jobs.run(*command(model, corpus, output)) == 0
    assert f"{SHARDS} shards (1 computed now)" in capsys.readouterr().err
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)


def test_another_jobs_output_is_refused(cluster, model, corpus, whole, capsys):
    before = batch_jobs.contents(whole)
    assert batch_jobs.run(*ray_command(model, corpus, whole), "--temperature", "0.9") == 2
    error = capsys.readouterr().err
    assert "model.temperature.value was 1.0 and is 0.9 now" in error
    assert "Traceback" not in error
    assert batch_jobs.contents(whole) == before


def test_a_sink_is_loaded_and_one_of_another_job_is_refused_before_the_work(
    cluster, model, corpus, whole, tmp_path, capsys
):
    output, sink = shutil.copytree(whole, tmp_path / "out"), f"lancedb://{tmp_path}/db/t"
    assert batch_jobs.run(*ray_command(model, corpus, output), "--sink", sink) == 0
    assert f"{SHARDS} shards ({SHARDS} added now)" in capsys.readouterr().err
    assert lance_tables.loaded(tmp_path / "db").equals(lance_tables.stored(output))
    other = batch_jobs.arguments(model, corpus, tmp_path / "other", "--engine", "ray", "--sink", sink)  # with other ids
    assert batch_jobs.run(*other) == 2
    assert "holds the rows of another job" in capsys.readouterr().err
    assert not (tmp_path / "other" / "manifest.json").exists()


def test_a_bad_row_stops_the_job_where_it_should(cluster, model, corpus, tmp_path, capsys):
    assert batch_jobs.run(*ray_command(model, corpus, tmp_path / "out"), "--on-error", "fail") == 2
    error = capsys.readouterr().err
    assert re.search(r"part\d\.jsonl, line \d+: ('text' is null|not JSON)", error)
    assert "Traceback" not in error
    wait_until(lambda: ray.available_resources().get("CPU") == 2)  # and its actors


def test_ranges_are_taken_once(cluster, model, tmp_path):
    """There are two small files, vectors in 8 bits, and several numbers of actors."""
    corpus = batch_jobs.write_corpus(tmp_path / "corpus", rows=80)
    more = ("--precision", "int8", "--calibration-rows", "30", "--format", "npy")
    assert batch_jobs.run(*command(model, corpus, tmp_path / "one", *more)) == 0
    assert batch_jobs.run(*ray_command(model, corpus, tmp_path / "ray", *more), "--concurrency", "1") == 0
    assert batch_jobs.contents(tmp_path / "ray") == batch_jobs.contents(tmp_path / "one")


def test_a_model_that_is_not_there_and_resources_that_ray_refuses(cluster, corpus, tmp_path, capsys):
    arguments = ray_command(tmp_path / "none", corpus, tmp_path / "out")
    assert batch_jobs.run(*arguments) == 2
    assert f"there is no directory {tmp_path}/none (on the node" in capsys.readouterr().err
    assert batch_jobs.run(*arguments, "--resources", '{"GPU": 1.5}') == 2
    error = capsys.readouterr().err
    assert "nodes: 3, of which none has room for an actor; Ray waits until one has" in error
    assert "Ray cannot give an actor {'GPU': 1.5}: GPU resource quantities >1 must be whole numbers" in error
    assert batch_jobs.run(*arguments, "--address", cluster.address) == 2
    assert "this process is connected to a Ray cluster already" in capsys.readouterr().err


def test_embed_in_a_pipeline_of_ones_own(cluster, model):
    texts = [f"the {word} of" for word in ("a", "was", "not", "all", "have", "by", "at")]
    dataset = ray.data.from_items([{"n": n, "words": text} for n, text in enumerate(texts)])
    embedded = dataset.map_batches(
        Embed,
        fn_constructor_kwargs={
            "model": str(model),
            "text_column": "words",
            "output_column": "vector",
            "temperature": 0.8,
            "prompt": "to ",
        },
        batch_size=4,
        concurrency=1,
    )
    rows = sorted(embedded.take_all(), key=lambda row: row["n"])
    assert [row["words"] for row in rows] == texts
    expected = tsjax.load(model, temperature=0.8).encode(texts, prompt="to ")
    found = np.stack([row["vector"] for row in rows])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
