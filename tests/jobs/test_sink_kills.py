"""Tables after kills: each row is there once, wherever the job was killed and however many workers loaded at once."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.support import batch_jobs
from tests.support.lance_tables import loaded, sink, stored
from tests.support.lazy import lazy
from tsjax.jobs.sinks.loading import load

lancedb = lazy("lancedb")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=120)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    jobs = batch_jobs.Jobs(tmp_path_factory.mktemp("jobs"))
    yield jobs
    jobs.close()


# Loads an output shard by shard and kills itself before or after one of its commits.
_KILLED = textwrap.dedent("""
    import os, sys
    from tsjax.jobs.output.directory import Output
    from tsjax.jobs.sinks.lance import LanceSink
    from tsjax.jobs.sinks.loading import load
    from tsjax.jobs.sinks.sink import open_sink

    path, url, method, moment, count = sys.argv[1:]
    output, do, done = Output(path), getattr(LanceSink, method), [0]

    def then_killed(*arguments):
        last = done[0] == int(count)
        done[0] += 1
        if last and moment == "before":
            os.kill(os.getpid(), 9)
        do(*arguments)
        if last and moment == "after":
            os.kill(os.getpid(), 9)

    setattr(LanceSink, method, then_killed)
    load(output, output.record_keys(), open_sink(url, output.job()), rows_a_step=1)
""")


def kill_while_loading(output, folder, method, moment, count):
    command = [sys.executable, "-c", _KILLED, output.path, f"lancedb://{folder}/t", method, moment, str(count)]
    return subprocess.run(list(map(str, command)), cwd=Path(__file__).parents[2], check=False).returncode


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_beside_a_commit(done, tmp_path, moment):
    # Each run resumes where the one before stopped; existing shards are not added again.
    for count in (0, 2, 1):
        assert kill_while_loading(done, tmp_path / "db", "add", moment, count) == -9
    there = {"before": 0 + 2 + 1, "after": 1 + 3 + 2}[moment]
    found = load(done, done.record_keys(), sink(tmp_path / "db", done))
    assert (found.shards, found.added_shards) == (8, 8 - there)
    assert loaded(tmp_path / "db") == stored(done.path)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_while_something_is_put_right(done, tmp_path, moment):
    load(done, done.record_keys(), sink(tmp_path / "db", done))
    lancedb.connect(tmp_path / "db").open_table("t").delete("id IN ('0-1', '1-50')")
    assert kill_while_loading(done, tmp_path / "db", "remove", moment, 0) == -9
    load(done, done.record_keys(), sink(tmp_path / "db", done))
    assert loaded(tmp_path / "db") == stored(done.path)


def test_a_command_that_is_killed_anywhere(model, corpus, jobs, tmp_path):
    more = ["--id-column", "id", "--keep", "title", "--sink", f"lancedb://{tmp_path}/db/t"]
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", *more)
    manifest = tmp_path / "out" / "manifest.json"
    moments = [
        manifest.exists,
        lambda: len(list((tmp_path / "out" / "records").glob("*"))) >= 4,
        (tmp_path / "db" / "t.lance").exists,
        (tmp_path / "db" / "t.lance" / "data").exists,
    ]
    kills = 0
    for moment in moments:
        process = jobs.start(*command)
        while process.alive() and not moment():
            time.sleep(0.002)
        process.kill()
        kills += process.status() is None
    assert kills >= 2  # the last moments may come too late
    process = jobs.start(*command)
    assert process.status() == 0, process.stderr()
    assert loaded(tmp_path / "db") == stored(tmp_path / "out")


def test_four_workers_at_once(model, corpus, jobs, done, tmp_path):
    more = ["--id-column", "id", "--keep", "title", "--sink", f"lancedb://{tmp_path}/db/t"]
    processes = [
        jobs.start(*batch_jobs.arguments(model, corpus, tmp_path / "out", *more, "--shard", f"{index}/4"))
        for index in range(4)
    ]
    for process in processes:
        assert process.status() == 0, process.stderr()
    assert loaded(tmp_path / "db") == stored(tmp_path / "out")
    assert loaded(tmp_path / "db") == stored(done.path)  # This holds for any worker that embedded them.
