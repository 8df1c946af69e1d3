import errno
import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import tsjax
from tests.support import batch_jobs
from tsjax.errors import CheckpointError, InputError
from tsjax.jobs.inspect.status import missing_shards
from tsjax.jobs.output.directory import Output
from tsjax.jobs.output.shards import Layout
from tsjax.jobs.plan import ShardKey, Worker

BAD = [(f"part{part}.jsonl", row) for part in (0, 1) for row in (5, 7)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=80)


@pytest.fixture(scope="module")
def whole(model, corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    assert batch_jobs.run(*command) == 0
    return output


@pytest.fixture
def output(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def table(output):
    return pa.parquet.read_table(output / "vectors")


def lines_of(paths):
    return [line for path in paths for line in Path(path).read_text().splitlines()]


def vectors_of(found):
    column = found.column("embedding").combine_chunks()
    return column.flatten().to_numpy().reshape(len(found), -1)


def error_of(capsys, *command):
    assert batch_jobs.run(*command) == 2
    return capsys.readouterr().err


def test_the_vectors_are_those_of_encode(whole, model, corpus):
    found = table(whole)
    rows = [json.loads(line) for line in lines_of(corpus) if line != '{"id": "broken"']
    rows = [row for row in rows if row["text"] is not None]
    assert found.column("id").to_pylist() == [row["id"] for row in rows]
    assert found.column("title").to_pylist() == [row["title"] for row in rows]
    expected = tsjax.load(model).encode([row["text"] for row in rows])
    np.testing.assert_allclose(vectors_of(found), expected, atol=1e-6)


def test_what_a_job_leaves(whole, corpus):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["complete"]
    assert [facts["name"] for facts in manifest["job"]["inputs"]] == ["part0.jsonl", "part1.jsonl"]
    assert manifest["job"]["model"]["temperature"] == {"value": 1.0}
    assert [shard["rows"] for shard in manifest["shards"]] == [14, 16, 14, 16, 16]
    assert manifest["shards"][0]["first_row"] == ["part0.jsonl", 0]
    assert manifest["shards"][2]["last_row"] == ["part1.jsonl", 7]
    assert [shard["last"] for shard in manifest["shards"]] == [False] * 4 + [True]
    rejected = [json.loads(line) for line in lines_of([whole / "rejected.jsonl"])]
    assert [(row["file"], row["row"]) for row in rejected] == BAD
    assert rejected[0] == {"file": "part0.jsonl", "row": 5, "line": 6, "reason": "'text' is null"}


def test_nothing_is_computed_twice(output, model, corpus, capsys):
    before = {path: path.stat().st_mtime_ns for path in (output / "vectors").iterdir()}
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    assert batch_jobs.run(*command) == 0
    assert "(0 computed now)" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (output / "vectors").iterdir()} == before


def test_what_is_lost_or_damaged_is_made_again(output, whole, model, corpus):
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    (output / "vectors" / "shard-00000-00001.parquet").unlink()
    (output / "records" / "shard-00000-00002.json").write_text("{")
    flip(output / "vectors" / "shard-00000-00004.parquet")
    assert batch_jobs.run(*command) == 0
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (["--temperature", "0.9"], "model.temperature.value was 1.0 and is 0.9 now"),
        (["--rows-per-shard", "17"], "options.rows_per_shard was 16 and is 17 now"),
        (["--precision", "float16"], 'options.precision was "float32" and is "float16" now'),
        (["--prompt", "the "], 'model.prompt was "" and is "the " now'),
        (["--max-seq-length", "20"], "model.max_seq_length was 41 and is 20 now"),
        (["--dtype", "bfloat16"], 'model.dtype was "float32" and is "bfloat16" now'),
        (["--truncate-dim", "8"], "model.truncate_dim was null and is 8 now"),
        (["--deduplicate"], "options.deduplicate was false and is true now"),
        (["--id-column", "title"], 'options.columns.id was "id" and is "title" now'),
    ],
)
def test_a_changed_option_is_refused_by_name(output, model, corpus, capsys, more, difference):
    before = batch_jobs.contents(output)
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text", *more)
    assert difference in error_of(capsys, *command)
    assert batch_jobs.contents(output) == before


@pytest.mark.parametrize("package", ["tsjax", "jax"])
def test_another_version_is_refused_by_name(output, model, corpus, capsys, monkeypatch, package):
    version = importlib.import_module(package).__version__
    monkeypatch.setattr("tsjax.jobs.job.__version__" if package == "tsjax" else "jax.__version__", "9.9")
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    assert f'versions.{package} was "{version}" and is "9.9" now' in error_of(capsys, *command)


# Prints the statuses of jobs, one in each argument, on a CPU with four devices.
_FOUR_DEVICES = """
import json, sys
import jax
from tsjax.cli.main import main

assert jax.device_count() == 4
print([main(json.loads(command)) for command in sys.argv[1:]])
"""


@pytest.mark.slow
def test_the_devices_that_are_used_are_part_of_the_job(output, whole, model, corpus):
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    (output / "vectors" / f"{NAME}.parquet").unlink()
    process = subprocess.run(
        [sys.executable, "-c", _FOUR_DEVICES, json.dumps(command), json.dumps([*command, "--devices", "1"])],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout == "[2, 0]\n", process.stderr
    assert 'model.devices was ["cpu", 1] and is ["cpu", 4] now' in process.stderr
    assert "(1 computed now)" in process.stderr
    # Devices that a process could use and did not use change nothing.
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)


def test_another_model_or_input_is_refused_by_name(output, model, corpus, capsys, tmp_path):
    more = ["--id-column", "id", "--keep", "title", "text"]
    from conversion.convert import convert
    from tests.support.checkpoints import write_sentence_transformers

    source = write_sentence_transformers(tmp_path / "source", seed=1, heads=[("Normalize", {})])
    convert(source, tmp_path / "model")
    assert "model.source was" in error_of(capsys, *batch_jobs.arguments(tmp_path / "model", corpus, output, *more))
    changed = shutil.copytree(Path(corpus[0]).parent, tmp_path / "changed")
    inputs = [str(changed / "part0.jsonl"), str(changed / "part1.jsonl")]
    with Path(inputs[1]).open("a") as file:
        file.write('{"id": "new", "text": "the"}\n')
    error = error_of(capsys, *batch_jobs.arguments(model, inputs, output, *more))
    assert "the input part1.jsonl has changed (bytes was" in error
    error = error_of(capsys, *batch_jobs.arguments(model, corpus[:1], output, *more))
    assert "the input part1.jsonl is not given any more" in error
    error = error_of(capsys, *batch_jobs.arguments(model, corpus[::-1], output, *more))
    assert "the inputs come in another order" in error


def test_stopping_at_the_first_bad_row(model, corpus, tmp_path, capsys):
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--on-error", "fail")
    assert "part0.jsonl, line 6: 'text' is null" in error_of(capsys, *command)


def test_stopping_at_a_bad_row_that_an_earlier_run_rejected(output, model, corpus, capsys):
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    before = batch_jobs.contents(output)
    assert "part0.jsonl, line 6: 'text' is null" in error_of(capsys, *command, "--on-error", "fail")
    assert batch_jobs.contents(output) == before
    assert batch_jobs.run(*command) == 0


@pytest.mark.parametrize("which", ["shard", "record", "manifest"])
def test_a_full_disk_stops_the_job_and_the_next_run_ends_alike(
    model, corpus, whole, tmp_path, capsys, monkeypatch, which
):
    from tsjax.storage import atomic

    output, calls, real = tmp_path / "out", [], atomic.sync
    place = {"shard": "shard-00000-00002.parquet", "record": "shard-00000-00002.json", "manifest": "manifest.json"}[
        which
    ]

    def full(path):
        if path.name == place:
            calls.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path)

    monkeypatch.setattr(atomic, "sync", full)
    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    error = error_of(capsys, *command)
    assert f"{place}: the disk is full" in error
    assert calls
    assert not list((output / ".tsjax").glob("*/*"))
    monkeypatch.setattr(atomic, "sync", real)
    assert batch_jobs.run(*command) == 0
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)


def test_a_disk_that_is_full_while_a_shard_is_written(model, corpus, whole, tmp_path):
    jobs = batch_jobs.Jobs(tmp_path)
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--id-column", "id", "--keep", "title", "text")
    limited = jobs.start(*command, largest_file=2000)
    assert limited.status() == 2
    assert "cannot write" in limited.stderr()
    assert "Traceback" not in limited.stderr()
    jobs.close()
    assert batch_jobs.run(*command) == 0
    assert batch_jobs.contents(tmp_path / "out") == batch_jobs.contents(whole)


def test_a_lock_that_does_not_exclude_harms_no_shard(tmp_path, monkeypatch):
    """Some file systems have clients that grant locks by themselves: two processes are the same worker at once."""
    import filelock

    from tsjax.jobs.plan import Worker

    class Granted(filelock.SoftFileLock):
        def __init__(self, path, **more):
            super().__init__(f"{path}-{id(self)}", **more)

    monkeypatch.setattr(filelock, "FileLock", Granted)
    output, worker = Output(tmp_path / "out"), Worker(1, 4)
    with output.working(worker) as mine:
        (mine / "shard").write_text("half")
        with output.working(worker) as theirs:
            assert theirs != mine
            (theirs / "shard").write_text("of the other")
            assert (mine / "shard").read_text() == "half"
        assert (mine / "shard").read_text() == "half"
    assert not list((tmp_path / "out" / ".tsjax").glob("*/*"))


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    """No file is left that would lock out later workers after a kill."""
    import fcntl

    from tsjax.jobs.plan import Worker

    def none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    output, worker = Output(tmp_path / "out"), Worker(1, 4)
    with output.working(worker), output.working(worker):
        assert output.is_locked(1, 4) is None


def test_a_worker_waits_for_who_only_looks(tmp_path):
    """`status` holds a worker's lock for a moment, and the worker waits."""
    from filelock import FileLock

    from tsjax.jobs.plan import Worker

    output, worker = Output(tmp_path / "out"), Worker(1, 4)
    with output.working(worker):
        (path,) = (output.path / ".tsjax").glob("*.lock")
    lock = FileLock(path, thread_local=False)
    lock.acquire()
    threading.Timer(0.2, lock.release).start()
    with output.working(worker):
        assert not lock.is_locked


def test_a_block_is_bounded_by_all_that_it_holds(model, tmp_path, monkeypatch):
    from tsjax.jobs.input.columns import Columns, Rejection, Row
    from tsjax.jobs.input.sources import find_sources
    from tsjax.jobs.job import Model, Options
    from tsjax.jobs.plan import Plan
    from tsjax.jobs.run import worker_loop as running

    (tmp_path / "a.jsonl").write_text("")
    plan = Plan.of(find_sources([str(tmp_path / "a.jsonl")]), 16)
    loaded = Model.of(tsjax.load(model))
    options = Options(columns=Columns(keep=("title",)), file_format="npy")
    runner = running.JobRunner(loaded, options, plan, Output(tmp_path / "out"))
    reader = type("Reader", (), {"position": lambda self: 0})()

    def blocks(rows):
        return [len(block) for block, _, _ in runner._cut(iter(rows), reader)]

    large = "x" * 1_000_000
    assert blocks([Row("f", 0, "f:0", "the", ("title",))] * 16_384) == [16_384]
    for kept in ((large,), (large.encode(),), ([large], 1), ({"a": [large, None]},)):
        assert max(blocks([Row("f", 0, "f:0", "the", kept)] * 60)) < 20
    assert max(blocks([Row("f", 0, large, "the", ())] * 60)) < 20
    assert max(blocks([Rejection("f", 0, 1, "a reason")] * 200_000)) < 100_000


def test_what_killed_processes_have_left_is_removed(tmp_path):
    from tsjax.jobs.plan import ALONE, Worker

    output, worker = Output(tmp_path / "out"), Worker(1, 4)
    with output.working(worker) as mine:
        host, name = os.uname().nodename, mine.name
    gone = f"{worker}-{host}-{2**22 + 1}-{'0' * 32}"  # a process id above the largest
    elsewhere = f"{worker}-other-host-1-{'0' * 32}"
    long_ago = f"{worker}-other-host-1-{'1' * 32}"
    another = f"{ALONE}-{host}-{2**22 + 1}-{'0' * 32}"
    for folder in (gone, elsewhere, long_ago, another):
        (output.path / ".tsjax" / folder).mkdir()
        (output.path / ".tsjax" / folder / "shard").write_text("half")
    for path in (output.path / ".tsjax" / long_ago / "shard", output.path / ".tsjax" / long_ago):
        os.utime(path, (0, 0))
    with output.working(worker) as mine:
        assert mine.name != name
        found = {path.name for path in (output.path / ".tsjax").iterdir() if path.is_dir()}
    assert found == {mine.name, elsewhere, another}


def test_a_record_that_cannot_be_read_is_none(output, whole, model, corpus, monkeypatch):
    """A record may also be damaged while the job runs. A record that the disk cannot read is an error."""
    from tsjax.jobs.output import directory as records
    from tsjax.jobs.plan import ALONE, Plan, ShardKey
    from tsjax.jobs.run.accounting import Books
    from tsjax.jobs.run.worker_loop import JobRunner

    command = batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title", "text")
    (output / "records" / "shard-00000-00007.json").write_text("{")  # a shard that the job does not have
    compute = JobRunner.compute

    def spoilt(runner, books, partial):
        computed = compute(runner, books, partial)
        (output / "records" / f"{NAME}.json").write_text('{"shard": 1}')
        return computed

    monkeypatch.setattr(JobRunner, "compute", spoilt)
    assert batch_jobs.run(*command) == 0
    monkeypatch.setattr(JobRunner, "compute", compute)
    assert [shard["shard"] for shard in json.loads((output / "manifest.json").read_text())["shards"]] == [
        f"00000-{index:05d}" for index in (0, 2, 3, 4)
    ]
    assert batch_jobs.run(*command) == 0
    (output / "records" / "shard-00000-00007.json").unlink()
    assert batch_jobs.contents(output) == batch_jobs.contents(whole)
    (output / "records" / f"{NAME}.json").unlink()
    (output / "records" / f"{NAME}.json").mkdir()
    found = records.Output(output)
    with pytest.raises(CheckpointError, match=r"00001\.json cannot be read: .*directory"):
        Books(found, Plan((), 16), found.job()).mine(ALONE)
    assert found.read_record(ShardKey(3, 3)) is None
    (output / "records" / "shard-00000-00007.json").write_text(
        (output / "records" / "shard-00000-00000.json").read_text().replace('"00000-00000"', "7")
    )
    assert found.read_record(ShardKey(0, 7)) is None


def test_two_workers_of_different_jobs_that_start_at_once(model, corpus, tmp_path, monkeypatch):
    """The second worker joins the first's job or none, before there is any manifest, and with the first's ranges."""
    from tsjax.jobs.input.sources import find_sources
    from tsjax.jobs.job import Model, Options
    from tsjax.jobs.plan import Plan, Worker
    from tsjax.jobs.run.worker_loop import JobRunner

    plan = Plan.of(find_sources(corpus), 16)
    loaded = Model.of(tsjax.load(model))
    output = Output(tmp_path / "out")

    def runner(index, **options):
        return JobRunner(
            loaded, Options(rows_per_shard=16, precision="int8", **options), plan, output, worker=Worker(index, 2)
        )

    first = runner(0).join()
    assert first.ranges is not None
    other = [[number - 1 for number in numbers] for numbers in first.ranges]
    monkeypatch.setattr(JobRunner, "_calibrated", lambda self: other)
    # The second job starts later, or looks at the same moment.
    for recorded in (Output.recorded_job, lambda self: None):
        monkeypatch.setattr(Output, "recorded_job", recorded)
        with pytest.raises(InputError, match=r"options\.normalize was false and is true now"):
            runner(1, normalize=True).join()
        assert runner(1).join() == first
    assert [path.name for path in (output.path / ".tsjax").iterdir()] == ["job.json"]


# -- verify -----------------------------------------------------------------------------------------------------------


def flip(path, place=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def rewrite(output, name, change):
    """Change a shard's table, and record it as if it had been made so."""
    path = output / "vectors" / f"{name}.parquet"
    changed = change(pa.parquet.read_table(path))
    pa.parquet.write_table(changed, path, compression="zstd")
    from tsjax.jobs.output.directory import file_facts

    facts = file_facts(path)
    for file in (output / "records" / f"{name}.json", output / "manifest.json"):
        data = json.loads(file.read_text())
        for record in data.get("shards", [data]):
            if record["shard"] == name.removeprefix("shard-"):
                record["files"] = [{"name": facts.name, "bytes": facts.bytes, "sha256": facts.sha256}]
                record["rows"] = len(changed)
        file.write_text(json.dumps(data))


def replace(found, column, values):
    place = found.schema.get_field_index(column)
    return found.set_column(place, found.schema.field(place), pa.array(values, found.schema.field(place).type))


def problems(output, capsys, *more):
    capsys.readouterr()
    status = batch_jobs.run("batch", "verify", output, *more)
    out, err = capsys.readouterr()
    assert status == (0 if "whole and sound" in out else 2), err
    return out


NAME = "shard-00000-00001"


def with_vector(number):
    def change(found):
        vectors = found.column("embedding").to_pylist()
        vectors[3][2] = number
        return replace(found, "embedding", vectors)

    return change


def with_ids(change_ids):
    return lambda found: replace(found, "id", change_ids(found.column("id").to_pylist()))


def with_record(manifest=True, **changes):
    """Change the record of a shard, both in its own file and in the manifest."""

    def damage(output):
        for file in (output / "records" / f"{NAME}.json", *([output / "manifest.json"] if manifest else [])):
            data = json.loads(file.read_text())
            for record in data.get("shards", [data]):
                if record["shard"] == NAME.removeprefix("shard-"):
                    record.update(changes)
                    if "shards" in data and "rejected" in changes:
                        record["rejected"] = len(changes["rejected"])
            file.write_text(json.dumps(data))

    return damage


def rejection(row, reason="'text' is null"):
    return {"file": "part0.jsonl", "row": row, "line": row + 1, "reason": reason}


def without_a_row_that_is_rejected(output):
    """Simulate a job that lost a row and recorded it as rejected."""
    rewrite(output, NAME, lambda found: found.slice(1))
    with_record(rejected=[rejection(16)])(output)


def with_record_of_first(output):
    """Simulate a first shard that knows only one of its two bad rows."""
    for file in (output / "records" / "shard-00000-00000.json", output / "manifest.json"):
        data = json.loads(file.read_text())
        if "shards" in data:
            data["shards"][0]["rejected"] = 1
        else:
            data["rejected"] = data["rejected"][:1]
        file.write_text(json.dumps(data))


DAMAGE = {
    "flipped": (lambda out: flip(out / "vectors" / f"{NAME}.parquet"), f"{NAME}.parquet was changed: its checksum"),
    "cut": (lambda out: os.truncate(out / "vectors" / f"{NAME}.parquet", 500), "has 500 bytes, and its record says"),
    "shard removed": (lambda out: (out / "vectors" / f"{NAME}.parquet").unlink(), f"{NAME}.parquet is missing"),
    "record removed": (lambda out: (out / "records" / f"{NAME}.json").unlink(), "shard 00000-00001 is missing"),
    "record spoilt": (lambda out: (out / "records" / f"{NAME}.json").write_text("["), "cannot be read"),
    "end removed": (lambda out: (out / "records" / "shard-00000-00004.json").unlink(), "the end of group 0 of the"),
    "NaN": (lambda out: rewrite(out, NAME, with_vector(float("nan"))), "has 1 vector not finite"),
    "norm": (lambda out: rewrite(out, NAME, with_vector(2.0)), "has 1 vector whose norm is not 1"),
    "id twice": (lambda out: rewrite(out, NAME, with_ids(lambda ids: [ids[0], *ids[:-1]])), "1 id comes again"),
    "ids swapped": (lambda out: rewrite(out, NAME, with_ids(lambda ids: ids[::-1])), "where the input has"),
    "row lost": (lambda out: rewrite(out, NAME, lambda found: found.slice(0, len(found) - 1)), "lacks the id"),
    "file added": (
        lambda out: shutil.copy(out / "vectors" / f"{NAME}.parquet", out / "vectors" / "shard-00000-00099.parquet"),
        "shard-00000-00099.parquet is of no shard that is recorded",
    ),
    "row count": (with_record(input_rows=999), "the record says input_rows 999, and the input gives 16"),
    "first row": (
        with_record(first_row=["zzz", 5]),
        'says first_row ["zzz", 5], and the input gives ["part0.jsonl", 16]',
    ),
    "last row": (with_record(last_row=None), 'says last_row null, and the input gives ["part0.jsonl", 31]'),
    "tokens": (
        with_record(manifest=False, tokens=7),
        "manifest.json and the record of shard 00000-00001 differ in tokens",
    ),
    "good row rejected": (without_a_row_that_is_rejected, "rejects row 16 of part0.jsonl, which can be embedded"),
    "row of another shard": (
        with_record(rejected=[rejection(5)]),
        "rejects 1 row that the shard does not have",
    ),
    "bad row forgotten": (
        with_record_of_first,
        "says nothing of row 7 of part0.jsonl, which cannot be embedded",
    ),
    "list of rejected rows": (lambda out: (out / "rejected.jsonl").write_text(""), "rejected.jsonl was changed"),
    "row added": (lambda out: rewrite(out, NAME, lambda found: pa.concat_tables([found, found[:1]])), "no further row"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_verify_finds(output, capsys, kind):
    assert "every id of the 76 rows of the input not rejected exactly once" in problems(output, capsys)
    damage, sentence = DAMAGE[kind]
    damage(output)
    assert sentence in problems(output, capsys)


@pytest.mark.parametrize("what", ["no list", "not complete", "an old count"])
def test_what_can_be_told_from_the_records_is_written_again(output, capsys, what):
    before = batch_jobs.contents(output)
    rejected, manifest = output / "rejected.jsonl", output / "manifest.json"
    if what == "no list":
        rejected.unlink()
    else:
        data = json.loads(manifest.read_text())
        data |= {"complete": False} if what == "not complete" else {"shards": data["shards"][:-1]}
        manifest.write_text(json.dumps(data))
    assert "whole and sound" in problems(output, capsys)
    assert batch_jobs.contents(output) == before


def test_a_whole_output_can_be_read_only(output, capsys, monkeypatch):
    monkeypatch.setattr(Output, "working", lambda *_: pytest.fail("nothing is to be written"))
    assert "whole and sound" in problems(output, capsys)


def test_hashes_of_ids_go_below_the_output_and_leave_nothing(output, capsys, monkeypatch, tmp_path):
    before = sorted(output.rglob("*"))
    # a temporary directory is often in memory, which the ids would fill
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert "whole and sound" in problems(output, capsys)
    assert sorted(output.rglob("*")) == before


def test_hashes_of_ids_go_elsewhere_where_the_output_cannot_be_written(output, capsys, monkeypatch):
    real = tempfile.TemporaryFile

    def refusing(**keywords):
        if "dir" in keywords:
            raise OSError(errno.EROFS, "Read-only file system", str(keywords["dir"]))
        return real(**keywords)

    monkeypatch.setattr(tempfile, "TemporaryFile", refusing)
    assert "whole and sound" in problems(output, capsys)


def test_a_disk_that_is_full_of_hashes_is_a_sentence(output, capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("r+b"))  # noqa: SIM115
    error = error_of(capsys, "batch", "verify", output)
    assert f"cannot write {output / '.tsjax'}: the disk is full" in error


def test_what_is_missing_is_found_in_one_pass():
    class Counted(dict):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    rows = Counted((ShardKey(group, index), 16) for group in range(50) for index in (0, 2))
    missing = missing_shards(rows, {group: ShardKey(group, 2) for group in range(1, 50)}, [["a", "b"]] * 50, 16)
    assert missing[:2] == [
        "the end of group 0 of the input (a and 1 more file) is missing: no shard says that it is the last",
        "shard 00000-00001 is missing",
    ]
    assert len(missing) == 51
    assert rows.passes == 1


def test_texts_that_are_too_long_may_be_rejected(model, tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_text("the\n" + "the " * 100 + "\nof\n")
    assert batch_jobs.run(*batch_jobs.arguments(model, [file], tmp_path / "out", "--long-texts", "reject")) == 0
    assert "1 row rejected, every id of the 2 rows" in problems(tmp_path / "out", capsys)


def test_verify_finds_ids_that_the_input_has_twice(model, tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"id": f"id{i % 30}", "text": "the"}) + "\n" for i in range(33)))
    assert batch_jobs.run(*batch_jobs.arguments(model, [file], tmp_path / "out", "--id-column", "id")) == 0
    assert "3 ids come again" in problems(tmp_path / "out", capsys)


def test_verify_says_when_the_input_is_another(model, tmp_path, capsys):
    file = tmp_path / "a.txt"
    file.write_text("the\nof\n")
    assert batch_jobs.run(*batch_jobs.arguments(model, [file], tmp_path / "out")) == 0
    assert "exactly once" in problems(tmp_path / "out", capsys)
    file.write_text("the\nof\nand\n")
    assert "is no longer what was embedded" in problems(tmp_path / "out", capsys)
    file.unlink()
    assert "there is no file" in problems(tmp_path / "out", capsys)
    assert "not compared with the input" in problems(tmp_path / "out", capsys, "--no-inputs")


def test_verify_knows_the_inputs_by_name_in_whatever_order_they_are_given(model, tmp_path, capsys):
    (tmp_path / "a.csv").write_text('id,text\n1,"the of"\n')
    (tmp_path / "b.txt").write_text("the\nof\n")
    files = [tmp_path / "a.csv", tmp_path / "b.txt"]
    assert batch_jobs.run(*batch_jobs.arguments(model, files, tmp_path / "out")) == 0
    moved = tmp_path / "moved"
    moved.mkdir()
    given = [file.rename(moved / file.name) for file in files]
    assert "whole and sound" in problems(tmp_path / "out", capsys, "--input", *given[::-1])
    (moved / "c.txt").write_text("was\n")
    assert "c.txt was not in the job" in problems(tmp_path / "out", capsys, "--input", given[0], moved / "c.txt")
    assert "b.txt was not in the job" not in problems(tmp_path / "out", capsys, "--input", *given)
    assert "b.txt was in the job" in problems(tmp_path / "out", capsys, "--input", given[0])


@pytest.mark.parametrize("field", ["worker", "complete", "started_with", "job", "fingerprint", "format", "shards"])
def test_a_manifest_with_other_values_is_damaged(output, field, capsys):
    file = output / "manifest.json"
    whole = json.loads(file.read_text())
    for value in (None, -1, "x", [], {}, ["x", "y"]):
        file.write_text(json.dumps({**whole, field: value}))
        for action in ("verify", "status"):
            status = batch_jobs.run("batch", action, output)
            assert field == "shards" or status == 2, value
    del whole[field]
    file.write_text(json.dumps(whole))
    assert "manifest" in error_of(capsys, "batch", "verify", output)


@pytest.mark.parametrize("field", ["shard", "job", "last", "first_row", "input_rows", "rows", "rejected", "files"])
def test_a_record_with_other_values_is_found(output, field, capsys):
    file = output / "records" / f"{NAME}.json"
    whole = json.loads(file.read_text())
    for value in ("x", ["x"], {}, -1, 1e308):
        file.write_text(json.dumps({**whole, field: value}))
        assert batch_jobs.run("batch", "status", output) == 0
        assert batch_jobs.run("batch", "verify", output) == 2, value
    assert f"{output} has" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:20] + b"\xff(" + content[22:]])
def test_verify_finds_a_damaged_array(model, corpus, tmp_path, damage, capsys):
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--format", "npy")
    assert batch_jobs.run(*command) == 0
    file = min((tmp_path / "out" / "vectors").glob("*.npy"))
    file.write_bytes(damage(file.read_bytes()))
    assert "problem" in error_of(capsys, "batch", "verify", tmp_path / "out")


def test_a_job_without_any_vector_is_no_success(model, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"id": null, "text": "the"}\n{"id": [1], "text": "of"}\n')
    command = ("batch", "--input", tmp_path / "a.jsonl", "--model", model, "--id-column", "id", "--output")
    error = error_of(capsys, *command, tmp_path / "out")
    assert "no row could be embedded: " in error
    assert "a.jsonl, row 0: the id 'id' is null; " in error
    assert f"{tmp_path}/out/rejected.jsonl lists them all" in error
    (tmp_path / "a.jsonl").write_text("")
    assert batch_jobs.run(*command, tmp_path / "empty") == 0  # There was nothing to embed.


def test_an_output_that_is_none(tmp_path, capsys):
    for action in ("verify", "status"):
        assert "holds no manifest of a job" in error_of(capsys, "batch", action, tmp_path)
        assert f"there is no folder {tmp_path}/none" in error_of(capsys, "batch", action, tmp_path / "none")
    assert "needs --input and --output" in error_of(capsys, "batch")


def test_status(output, capsys):
    assert batch_jobs.run("batch", "status", output) == 0
    assert ": finished; 5 shards of 80 rows of the input so far: 76 vectors, 4 rows rejected" in capsys.readouterr().out
    assert batch_jobs.run("batch", "status", output, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shards"], found["rows"], found["input_rows"], found["finished_share"]) == (5, 76, 80, 1.0)
    (output / "records" / f"{NAME}.json").unlink()
    assert batch_jobs.run("batch", "status", output) == 0
    out = capsys.readouterr().out
    assert ": not finished; 4 shards of 64 rows" in out
    assert "%" not in out  # How much of its file a shard is becomes known at the file's end.
    assert "give the same command again" in out.splitlines()[-1]
    assert batch_jobs.run("batch", "verify", output) == 2
    assert "give the same command again" in capsys.readouterr().err
    with Output(output).working(Worker()):
        assert batch_jobs.run("batch", "status", output) == 0
        assert batch_jobs.run("batch", "verify", output) == 2
        assert "command" not in "".join(capsys.readouterr())  # a worker is working on it
    assert batch_jobs.run("batch", "status", output) == 0
    out = capsys.readouterr().out
    assert "worker 0 of 1: finished" in out


# -- other programs read the output ------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8", "uint8", "binary", "ubinary"])
def test_duckdb_polars_and_pandas_read_the_shards(model, corpus, whole, tmp_path, precision, capsys):
    import duckdb
    import polars

    output = tmp_path / "out"
    command = batch_jobs.arguments(
        *(model, corpus, output, "--id-column", "id", "--keep", "title", "--precision", precision)
    )
    assert batch_jobs.run(*command) == 0
    full = vectors_of(table(whole))
    numbers = full.shape[1] if "binary" not in precision else -(-full.shape[1] // 8)
    files = str(output / "vectors" / "*.parquet")
    with duckdb.connect() as connection:
        rows = connection.execute(f"select id, title, embedding from '{files}'").fetchall()
    frame = polars.read_parquet(files)
    assert frame.columns == ["id", "embedding", "title"]
    assert frame["id"].to_list() == [row[0] for row in rows] == table(whole).column("id").to_pylist()
    mine, theirs = np.array(frame["embedding"].to_list(), "f8"), np.array([row[2] for row in rows], "f8")
    np.testing.assert_array_equal(mine, theirs)
    assert mine.shape == (76, numbers)
    tolerance = {"float32": 0, "float16": 1e-3, "bfloat16": 4e-3}.get(precision)
    if tolerance is not None:
        np.testing.assert_allclose(mine, full, atol=tolerance)
        assert (precision == "float32") == np.array_equal(mine, full)
    elif precision == "ubinary":
        np.testing.assert_array_equal(mine, np.packbits(full > 0, axis=1))
    elif precision == "binary":
        np.testing.assert_array_equal(mine + 128, np.packbits(full > 0, axis=1))
    else:
        low, high = np.array(json.loads((output / "manifest.json").read_text())["job"]["ranges"])
        levels = mine + (128 if precision == "int8" else 0)
        np.testing.assert_allclose((levels + 0.5) * (high - low) / 255 + low, full, atol=0.01)
    assert "whole and sound" in problems(output, capsys)


@pytest.mark.slow
def test_bfloat16_takes_half_the_bytes(model, tmp_path):
    rng = random.Random(0)
    (tmp_path / "a.txt").write_text("".join(batch_jobs.make_text(rng) + "\n" for _ in range(1000)))
    sizes = {}
    for precision in ("float32", "bfloat16"):
        command = batch_jobs.arguments(model, [tmp_path / "a.txt"], tmp_path / precision, "--precision", precision)
        assert batch_jobs.run(*command, "--rows-per-shard", "1000") == 0
        sizes[precision] = sum(path.stat().st_size for path in (tmp_path / precision / "vectors").iterdir())
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]


def test_npy(model, corpus, whole, tmp_path, capsys):
    output = tmp_path / "out"
    command = batch_jobs.arguments(
        *(model, corpus, output, "--id-column", "id", "--keep", "title", "text", "--format", "npy")
    )
    assert batch_jobs.run(*command) == 0
    arrays = [np.load(path, mmap_mode="r") for path in sorted((output / "vectors").glob("*.npy"))]
    np.testing.assert_array_equal(np.concatenate(arrays), vectors_of(table(whole)))
    lines = [json.loads(line) for line in lines_of(sorted((output / "vectors").glob("*.jsonl")))]
    assert [line["id"] for line in lines] == table(whole).column("id").to_pylist()
    assert lines[0].keys() == {"id", "title", "text"}
    assert "whole and sound" in problems(output, capsys)
    lines_file = output / "vectors" / f"{NAME}.jsonl"
    lines_file.write_text("".join(lines_file.read_text().splitlines(keepends=True)[:-1]))
    assert f"{NAME}.jsonl has fewer rows" in problems(output, capsys)
    error = error_of(capsys, *batch_jobs.arguments(model, corpus, output, "--format", "npy", "--precision", "bfloat16"))
    assert "NumPy has no bfloat16" in error


def test_kept_columns_of_parquet_keep_their_types(model, tmp_path, capsys):
    data = {"text": ["the", "of"], "n": pa.array([1, None], pa.int16()), "when": pa.array([1, 2], pa.timestamp("us"))}
    pa.parquet.write_table(pa.table(data), tmp_path / "a.parquet")
    command = batch_jobs.arguments(model, [tmp_path / "a.parquet"], tmp_path / "out", "--keep", "n", "when")
    assert batch_jobs.run(*command) == 0
    found = table(tmp_path / "out")
    assert found.schema.field("n").type == pa.int16()
    assert found.select(["n", "when"]).to_pylist() == pa.table(data).select(["n", "when"]).to_pylist()
    pa.parquet.write_table(pa.table({"text": ["a"], "n": ["x"], "when": data["when"][:1]}), tmp_path / "b.parquet")
    inputs = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    error = error_of(capsys, *batch_jobs.arguments(model, inputs, tmp_path / "two", "--keep", "n", "when"))
    assert "b.parquet has 'n' as string, and" in error


def test_an_input_without_rows(model, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    (tmp_path / "b.jsonl").write_text("")
    for name, rejected in (("a", 1), ("b", 0)):
        output = tmp_path / f"out-{name}"
        # A job that can embed none of its rows is no success.
        assert batch_jobs.run(*batch_jobs.arguments(model, [tmp_path / f"{name}.jsonl"], output)) == 2 * rejected
        assert len((output / "rejected.jsonl").read_text().splitlines()) == rejected
        assert len(table(output)) == 0
        assert "whole and sound" in problems(output, capsys)


def test_json_log(model, corpus, tmp_path, capsys):
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--id-column", "id", "--json-log")
    assert batch_jobs.run(*command) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert events[-1]["event"] == "done"
    assert events[-1]["rows"] == 76
    assert events[-1]["rejected"] == 4
    assert events[-1]["run"]["tokens"] > 76


def test_search(output, model, capsys):
    text = table(output).column("text")[20].as_py()
    assert batch_jobs.run("search", output, text, "-n", "3", "--json") == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert hits[0]["text"] == text
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    found = table(output)
    scores = vectors_of(found) @ tsjax.load(model).encode(text)
    best = np.argsort(-scores, kind="stable")[:3]
    assert [hit["id"] for hit in hits] == [found.column("id")[int(place)].as_py() for place in best]


def test_a_kept_score_is_not_taken_for_the_similarity(model, tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "the cat", "score": "S0", "title": "first"}\n')
    assert batch_jobs.run(*batch_jobs.arguments(model, [file], tmp_path / "out", "--keep", "score", "title")) == 0
    capsys.readouterr()
    assert batch_jobs.run("search", tmp_path / "out", "the cat", "--json") == 0
    hit = json.loads(capsys.readouterr().out)
    assert hit == {"score": pytest.approx(1, abs=1e-5), "id": "a.jsonl:0", "title": "first"}


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8"])
def test_search_among_quantised_vectors(model, corpus, tmp_path, precision, capsys):
    more = ["--id-column", "id", "--keep", "text", "--precision", precision]
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out", *more)) == 0
    text = table(tmp_path / "out").column("text")[20].as_py()
    capsys.readouterr()
    assert batch_jobs.run("search", tmp_path / "out", text, "-n", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(model, tmp_path):
    """Resident memory at its peak, including that of libraries, is little more for twenty times as many rows."""
    jobs = batch_jobs.Jobs(tmp_path)
    peaks = []
    for rows in (2_000, 40_000):
        (tmp_path / f"{rows}.txt").write_text("".join(f"the {'of and a ' * 3}{row}\n" for row in range(rows)))
        process = jobs.start(
            *batch_jobs.arguments(
                model, [tmp_path / f"{rows}.txt"], tmp_path / f"out{rows}", "--rows-per-shard", "1000"
            )
        )
        peak = 0
        while process.alive():
            peak = max(peak, process.resident())
        assert process.status() == 0, process.stderr()
        peaks.append(peak)
    jobs.close()
    assert peaks[1] < peaks[0] + 60_000_000, peaks


@pytest.mark.slow
@pytest.mark.parametrize("leak", [False, True])
def test_no_row_and_no_vector_outlives_its_shard(model, tmp_path, monkeypatch, leak):
    """The peak of Python's and NumPy's memory rises at once with all that is kept of each row, and shows a leak."""
    from tsjax.jobs.run import worker_loop as running

    kept, add = [], running._Tally.add
    if leak:
        monkeypatch.setattr(running._Tally, "add", lambda self, block: (kept.append(block.vectors), add(self, block)))

    def peak(rows, name):
        (tmp_path / f"{name}.txt").write_text("".join(f"the {'of and a ' * 3}{row}\n" for row in range(rows)))
        command = batch_jobs.arguments(model, [tmp_path / f"{name}.txt"], tmp_path / name, "--rows-per-shard", "500")
        tracemalloc.start()
        try:
            assert batch_jobs.run(*command) == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            kept.clear()

    peak(4_000, "first")  # this imports and compiles
    few, many = peak(4_000, "few"), peak(20_000, "many")
    assert (many - few > 16_000 * 36 * 4 / 2) == leak, (few, many)


def test_layouts_name_their_files():
    from tsjax.jobs.plan import ShardKey

    assert Layout("npy", "float32", 4).files(ShardKey(1, 2)) == ("shard-00001-00002.npy", "shard-00001-00002.jsonl")
    assert ShardKey.parse(str(ShardKey(1, 234567))) == ShardKey(1, 234567)
    assert sys.byteorder == "little"  # the byte order of .npy files
