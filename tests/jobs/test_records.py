"""Manifests and records: read strictly, and written with the bytes of earlier versions (tests/data/format-2)."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support import batch_jobs
from tsjax.errors import CheckpointError
from tsjax.jobs.output.directory import Output
from tsjax.jobs.plan import ALONE

BEFORE = Path(__file__).parent.parent / "data" / "format-2" / "output"
MANIFEST, FIRST_JOB = "manifest.json", ".tsjax/job.json"


@pytest.fixture
def output(tmp_path):
    return Output(shutil.copytree(BEFORE, tmp_path / "out"))


def edit(output, file, change):
    path = output.path / file
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_an_output_of_an_earlier_version_is_whole_and_sound(output, capsys):
    assert batch_jobs.run("batch", "verify", output.path, "--no-inputs") == 0
    assert "whole and sound: 2 shards, 3 vectors, 2 rows rejected" in capsys.readouterr().out
    assert batch_jobs.contents(output.path) == batch_jobs.contents(BEFORE)


def test_what_is_written_again_has_the_same_bytes(output, tmp_path):
    again = Output(tmp_path / "again")
    [manifest] = output.read_manifests().values()
    job = output.job()
    assert again.settle(job) == job
    with again.working(ALONE) as partial:
        for key in output.record_keys():
            again.write_record(output.read_record(key), partial)
        again.write_manifest(
            ALONE, job, again.record_keys(), partial, complete=True, started_with=manifest.started_with
        )
        again.write_rejected(ALONE, again.record_keys(), partial)
    expected = {name: content for name, content in batch_jobs.contents(BEFORE).items() if "vectors/" not in name}
    assert batch_jobs.contents(again.path) == expected
    assert (again.path / FIRST_JOB).read_bytes() == (BEFORE / FIRST_JOB).read_bytes()


def test_a_job_that_came_first_is_not_replaced(output):
    job = output.job()
    other = type(job)({**job.facts, "versions": {"tsjax": "another"}})
    assert output.settle(other) == job
    assert sorted(path.name for path in (output.path / ".tsjax").iterdir()) == ["job.json"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (MANIFEST, lambda data: data.update(extra=1), "unknown field extra"),
        (MANIFEST, lambda data: data.pop("complete"), "missing field complete"),
        (MANIFEST, lambda data: data.update(complete=1), "complete: expected bool, got int"),
        (MANIFEST, lambda data: data["worker"].append(1), "worker: expected array of length 2"),
        (MANIFEST, lambda data: data["started_with"].update(inputs="a"), "started_with.inputs: expected array"),
        (MANIFEST, lambda data: data["started_with"].update(extra=1), "started_with: unknown field extra"),
        (MANIFEST, lambda data: data["shards"][1].update(rows=True), r"shards\[1\].rows|shards\[...\].rows"),
        (MANIFEST, lambda data: data["shards"][0].update(shard="0-0"), "'0-0' is no shard's number"),
        (MANIFEST, lambda data: data["job"].update(extra=1), "its job was changed"),
        (
            MANIFEST,
            lambda data: data["job"]["options"].update(rows_per_shard="7"),
            "job: options.rows_per_shard: exp",
        ),
        (FIRST_JOB, lambda data: data.update(extra=1), "unknown field extra"),
        (FIRST_JOB, lambda data: data["job"].pop("inputs"), "job: missing field inputs"),
        (FIRST_JOB, lambda data: data["job"]["inputs"][0].update(bytes=1.5), "bytes: expected int, got float"),
    ],
)
def test_a_change_is_refused_by_file_and_field(output, file, change, message):
    edit(output, file, change)
    if file == FIRST_JOB:
        (output.path / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        output.recorded_job()
    assert str(output.path / file) in str(caught.value)
    assert "`" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(extra=1),
        lambda data: data.update(rows=1.0),
        lambda data: data.update(last_row=["a"]),
        lambda data: data["files"][0].update(extra=1),
        lambda data: data["rejected"][0].update(row=None),
        lambda data: data["rejected"][0].update(extra=None),
    ],
)
def test_a_damaged_record_counts_as_none(output, change):
    key = output.record_keys()[0]
    assert output.read_record(key) is not None
    edit(output, output.record_file(key).relative_to(output.path), change)
    assert output.read_record(key) is None
