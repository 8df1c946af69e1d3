"""Unfinished and damaged outputs, which do not answer as if they were complete."""

import json
import os

import numpy as np
import pytest

import tsjax
from tests.support import batch_jobs
from tsjax.errors import CheckpointError
from tsjax.jobs.inspect.search import search
from tsjax.jobs.inspect.status import status
from tsjax.jobs.output.directory import Output
from tsjax.jobs.sinks.loading import load

TEXT = "paris of the last row"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    rows = [f"the cat {row}" for row in range(39)] + [TEXT]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return path


@pytest.fixture(params=["parquet", "npy"])
def output(request, model, corpus, tmp_path):
    command = batch_jobs.arguments(model, [corpus], tmp_path / "out", "--keep", "text", "--format", request.param)
    assert batch_jobs.run(*command) == 0
    return tmp_path / "out"


def unlink(output, shard, *folders):
    for folder in folders:
        for path in (output / folder).glob(f"shard-{shard}*"):
            path.unlink()


def not_complete(output):
    file = output / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "complete": False}))


UNFINISHED = {
    "killed at the end": (lambda output: unlink(output, "00000-00002", "vectors", "records"), "the end of group 0"),
    "a shard that another worker has": (
        lambda output: unlink(output, "00000-00001", "vectors", "records"),
        "shard 00000-00001 is missing",
    ),
    "nothing yet": (
        lambda output: [unlink(output, f"00000-0000{n}", "vectors", "records") for n in range(3)],
        "the end of group 0",
    ),
    "not brought to its end": (not_complete, "worker 0 of 1 has not finished"),
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_search_says_what_is_missing_and_ends_with_three(output, kind, capsys):
    assert batch_jobs.run("search", output, TEXT, "-n", 1) == 0
    whole = capsys.readouterr()
    assert (TEXT in whole.out, "not finished" in whole.err) == (True, False)
    spoil, sentence = UNFINISHED[kind]
    spoil(output)
    assert batch_jobs.run("search", output, TEXT, "-n", 1) == 3
    found = capsys.readouterr()
    assert "is not finished" in found.err
    assert sentence in found.err
    assert batch_jobs.run("search", output, TEXT, "-n", 40, "--json") == 3
    *rows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len([row for row in rows if "score" in row])
    assert last["finished"] is False
    assert any(sentence in missing for missing in last["missing"])
    assert batch_jobs.run("batch", "status", output) == 0
    assert sentence in capsys.readouterr().out


def test_a_finished_search_in_json_is_rows_alone(output, capsys):
    assert batch_jobs.run("search", output, TEXT, "--json") == 0
    assert all("score" in json.loads(line) for line in capsys.readouterr().out.splitlines())


def test_the_function_refuses_what_is_not_finished(output, model):
    query = tsjax.load(model).encode(TEXT)
    assert search(Output(output), query)[0].columns == {"text": TEXT}
    unlink(output, "00000-00001", "vectors", "records")
    with pytest.raises(CheckpointError, match="shard 00000-00001 is missing"):
        search(Output(output), query)
    assert len(search(Output(output), query, 40, partial=True)) == 24


def shorter(path):
    os.truncate(path, path.stat().st_size - 40)


def other(path):
    """Return another shard's file, which is sound and has fewer rows."""
    path.write_bytes(path.with_name(path.name.replace("00001", "00002")).read_bytes())


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [shorter, other, flipped, lambda path: path.write_bytes(b""), os.unlink])
def test_a_damaged_shard_is_an_error_that_names_it(output, damage, capsys):
    for path in (output / "vectors").glob("shard-00000-00001.*"):
        kept = path.read_bytes()
        damage(path)
        assert batch_jobs.run("search", output, TEXT) == 2
        found = capsys.readouterr()
        assert "shard-00000-00001" in found.err
        assert not found.out
        same_size = path.exists() and path.stat().st_size == len(kept)
        assert status(Output(output)).finished == same_size  # which looks only at sizes
        path.write_bytes(kept)
    assert batch_jobs.run("search", output, TEXT) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"shard": "00000-00001"}'])
def test_a_torn_record_is_an_error_that_names_it(output, content, capsys):
    file = output / "records" / "shard-00000-00001.json"
    file.write_text(content)
    assert batch_jobs.run("search", output, TEXT) == 2
    assert file.name in capsys.readouterr().err
    found = status(Output(output))
    assert not found.finished
    assert "00000-00001" in found.missing[0]


def test_status_of_several_workers(model, corpus, tmp_path):
    output = Output(tmp_path / "out")
    command = batch_jobs.arguments(model, [corpus], output.path)
    assert batch_jobs.run(*command, "--shard", "0/2") == 0
    assert "not started: 1 worker of 2" in status(output).missing
    assert batch_jobs.run("search", output.path, TEXT) == 3
    assert batch_jobs.run(*command, "--shard", "1/2") == 0
    assert status(output).finished
    assert batch_jobs.run("batch", "verify", output.path) == 0
    # The manifest that merges both says nothing else.
    assert status(output).finished
    assert status(output).missing == ()
    assert batch_jobs.run("search", output.path, TEXT) == 0


class Table:
    """A sink that accepts everything."""

    def __init__(self):
        self.added = []

    def counts(self):
        return {shard.label: shard.rows for shard in self.added}

    def remove(self, keys):
        raise AssertionError("nothing is there")

    def add(self, shards):
        self.added.extend(shards)


@pytest.mark.parametrize("damage", [shorter, flipped, os.unlink])
def test_a_damaged_shard_is_not_loaded(output, damage):
    path = min((output / "vectors").glob("shard-00000-00001.*"))
    damage(path)
    table = Table()
    with pytest.raises(CheckpointError, match="shard-00000-00001"):
        load(Output(output), Output(output).record_keys(), table)
    assert not table.added


def test_a_torn_array_is_no_shorter_array(output):
    """`tsjax batch --format npy` writes arrays for others to map; NumPy itself notices a truncated one."""
    for path in (output / "vectors").glob("shard-00000-00001.npy"):
        shorter(path)
        with pytest.raises(ValueError, match="length"):
            np.load(path, mmap_mode="r")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_half_a_checkpoint_is_an_error_that_names_the_file(tmp_path, name, capsys):
    model = batch_jobs.make_model(tmp_path)
    for damage in (shorter, os.unlink):
        kept = (model / name).read_bytes()
        damage(model / name)
        assert batch_jobs.run("info", model) == 2
        if name != "config.json":
            assert name in capsys.readouterr().err
        (model / name).write_bytes(kept)
    assert batch_jobs.run("info", model) == 0
