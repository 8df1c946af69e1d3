"""Identity of inputs by content: the same bytes continue a job whenever they were written, other bytes never do."""

import gzip
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

import tsjax
from tests.support import batch_jobs
from tsjax.errors import InputError
from tsjax.jobs.input import sources as inputs
from tsjax.jobs.input.columns import Columns, Rejection, Row
from tsjax.jobs.input.row_digests import RowsDigest
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.job import Model, Options
from tsjax.jobs.output.directory import Output
from tsjax.jobs.plan import ALONE, Made, Plan, ShardKey, check_made
from tsjax.jobs.run.accounting import Books
from tsjax.jobs.run.worker_loop import JobRunner

ROWS = 60


@pytest.fixture
def sampled(monkeypatch):
    """Identify files of more than a hundred bytes by samples, so that most of their bytes are in no sample."""
    monkeypatch.setattr(inputs, "_HASHED_BYTES", 0)
    monkeypatch.setattr(inputs, "_LEAST_HASHED_BYTES", 100)
    monkeypatch.setattr(inputs, "_SAMPLES", 2)
    monkeypatch.setattr(inputs, "_SAMPLE_BYTES", 16)


def texts(seed=3):
    rng = random.Random(seed)
    return [f"{batch_jobs.make_text(rng)} {number:03d}" for number in range(ROWS)]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def write_gzip(path, lines):
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))


def write_jsonl(path, lines):
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))


def write_csv(path, lines):
    path.write_text("text\n" + "".join(f'"{line}"\n' for line in lines))


def write_parquet(path, lines):
    table = pa.table({"text": lines})
    pa.parquet.write_table(
        table, path, row_group_size=16, compression="none", use_dictionary=False, write_statistics=False
    )


FORMS = {
    "a.txt": write_lines,
    "a.txt.gz": write_gzip,
    "a.jsonl": write_jsonl,
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


def downloaded_again(path, seconds=2_000_000_000):
    """Write the same bytes to a new file, at another time."""
    content = path.read_bytes()
    path.rename(path.with_name("old"))
    path.write_bytes(content)
    path.with_name("old").unlink()
    os.utime(path, (seconds, seconds))


def replaced(path, write, lines):
    """Replace a file by other bytes of the same size and time."""
    before = path.stat()
    write(path, lines)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def swapped(lines, *places):
    """Reverse the given lines, which keeps the size in every format without compression."""
    lines = list(lines)
    for place in places:
        lines[place] = lines[place][::-1]
    return lines


def forget(output, *keys):
    """Remove shards, as if the job had been killed before them."""
    for key in keys:
        (output / "records" / f"shard-{key}.json").unlink()
        (output / "vectors" / f"shard-{key}.parquet").unlink()
    (output / "manifest.json").unlink(missing_ok=True)


def shards(output):
    return {name: content for name, content in batch_jobs.contents(output).items() if "shard-" in name}


@pytest.fixture
def started(model, tmp_path):
    """Start a job over a file of each form.

    Returns the input, the command and its output, next to which a complete output is made.
    """

    def start(name, *more):
        source = tmp_path / name
        FORMS[name](source, texts())
        for output in ("out", "whole"):
            assert batch_jobs.run(*batch_jobs.arguments(model, [source], tmp_path / output, *more)) == 0
        return source, batch_jobs.arguments(model, [source], tmp_path / "out", *more), tmp_path / "out"

    return start


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_the_same_bytes_at_another_time_go_on_and_are_verified(started, name, tmp_path):
    source, command, output = started(name)
    forget(output, "00000-00001", "00000-00003")
    downloaded_again(source)
    assert batch_jobs.run(*command) == 0
    assert batch_jobs.contents(output) == batch_jobs.contents(tmp_path / "whole")
    downloaded_again(source, 2_000_000_001)
    assert batch_jobs.run("batch", "verify", output) == 0


@pytest.mark.parametrize("name", FORMS)
def test_other_bytes_of_the_same_size_and_time_are_refused(started, name, capsys):
    source, command, output = started(name)
    forget(output, "00000-00003")
    if name.endswith(".gz"):
        source_bytes, facts = bytearray(source.read_bytes()), source.stat()
        source_bytes[9] ^= 1  # the operating system in gzip's header, which no text depends on
        source.write_bytes(source_bytes)
        os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    else:
        replaced(source, FORMS[name], swapped(texts(), 20))
    before = batch_jobs.contents(output)
    assert batch_jobs.run(*command) == 2
    assert f"the input {name} has changed (sha256 was" in capsys.readouterr().err
    assert batch_jobs.contents(output) == before
    assert batch_jobs.run("batch", "verify", output) == 2


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_other_rows_than_a_shard_was_made_of_are_refused_where_samples_do_not_see_them(started, name, capsys):
    source, command, output = started(name)
    forget(output, "00000-00000", "00000-00003")
    replaced(source, FORMS[name], swapped(texts(), 20))  # a row of shard 1
    before = shards(output)
    assert batch_jobs.run(*command) == 2
    assert "the rows are not those that shard 00000-00001 was made of" in capsys.readouterr().err
    # This includes the first shard, which could have been made before the change was found.
    assert shards(output) == before


@pytest.mark.usefixtures("sampled")
def test_verify_finds_another_text_that_samples_do_not_see(started, capsys):
    source, _, output = started("a.txt")
    assert batch_jobs.run("batch", "verify", output) == 0
    replaced(source, write_lines, swapped(texts(), 20))
    assert batch_jobs.run("batch", "verify", output) == 2
    assert "shard 00000-00001 was made of other texts" in capsys.readouterr().out


@pytest.mark.usefixtures("sampled")
def test_what_was_not_embedded_yet_may_be_another(started, model, tmp_path):
    """The job then describes the new bytes: it ends as if there had never been others."""
    source, command, output = started("a.txt")
    forget(output, "00000-00002", "00000-00003")
    replaced(source, write_lines, swapped(texts(), 40))
    assert batch_jobs.run(*command) == 0
    assert batch_jobs.run("batch", "verify", output) == 0
    assert batch_jobs.run(*batch_jobs.arguments(model, [source], tmp_path / "new")) == 0
    assert batch_jobs.contents(output) == batch_jobs.contents(tmp_path / "new")


@pytest.mark.usefixtures("sampled")
def test_each_worker_looks_at_its_own_shards(model, tmp_path, capsys):
    source, output = tmp_path / "a.txt", tmp_path / "out"
    write_lines(source, texts())
    commands = [batch_jobs.arguments(model, [source], output, "--shard", f"{index}/2") for index in range(2)]
    assert [batch_jobs.run(*command) for command in commands] == [0, 0]
    forget(output, "00000-00002", "00000-00003")
    replaced(source, write_lines, swapped(texts(), 20))  # a row of shard 1, which is worker 1's
    assert batch_jobs.run(*commands[1]) == 2
    assert "shard 00000-00001 was made of" in capsys.readouterr().err
    # Worker 0 has no shard of changed rows, so the problem is found at the end.
    assert batch_jobs.run(*commands[0]) == 0
    assert batch_jobs.run("batch", "verify", output) == 2


def test_kept_values_are_compared_with_the_input(model, tmp_path, monkeypatch, capsys, request):
    source = tmp_path / "a.jsonl"

    def write(path, year):
        path.write_text("".join(json.dumps({"text": line, "year": year}) + "\n" for line in texts()))

    write(source, 1999)
    assert batch_jobs.run(*batch_jobs.arguments(model, [source], tmp_path / "out", "--keep", "year")) == 0
    assert batch_jobs.run("batch", "verify", tmp_path / "out") == 0
    request.getfixturevalue("sampled")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["job"]["inputs"][0].keys() == {"name", "format", "bytes", "sha256"}
    (found,) = find_sources([str(source)])
    assert found.identity().keys() == {"name", "format", "bytes", "samples_sha256"}


def test_a_file_that_changes_before_its_end_is_read_is_in_no_further_shard(model, tmp_path):
    """The change is found before a shard of the other bytes is recorded, which the next start would accept."""
    source, output = tmp_path / "a.txt", Output(tmp_path / "out")
    write_lines(source, texts())
    plan = Plan.of(find_sources([str(source)]), 16)
    runner = JobRunner(Model.of(tsjax.load(model)), Options(rows_per_shard=16), plan, output)
    blocks = runner._blocks(Books(output, plan, runner.join()), ALONE, {})
    assert next(blocks).key == ShardKey(0, 0)
    write_lines(source, swapped(texts(), 20))
    os.utime(source, (3_000_000_000, 3_000_000_000))
    with pytest.raises(InputError, match="was changed while it was read"):
        next(blocks)


def test_the_digest_of_a_file_in_a_store_is_of_its_bytes(monkeypatch):
    import hashlib

    import fsspec

    memory = fsspec.filesystem("memory")
    content = b"".join(b"text number %d\n" % number for number in range(600))
    memory.pipe("/identity/a.txt", content)
    (source,) = find_sources(["memory://identity/a.txt"])
    assert source.identity()["sha256"] == hashlib.sha256(content).hexdigest()
    memory.pipe("/identity/a.txt", content)  # another time of creation
    (again,) = find_sources(["memory://identity/a.txt"])
    assert again.identity() == source.identity()
    assert again.version != source.version
    monkeypatch.setattr(inputs, "_HASHED_BYTES", 0)
    monkeypatch.setattr(inputs, "_LEAST_HASHED_BYTES", 100)
    monkeypatch.setattr(inputs, "_SAMPLES", 3)
    monkeypatch.setattr(inputs, "_SAMPLE_BYTES", 10)
    (sampled,) = find_sources(["memory://identity/a.txt"])
    middle = (len(content) - 10) // 2
    pieces = content[:10] + content[middle : middle + 10] + content[-10:]
    assert sampled.identity()["samples_sha256"] == hashlib.sha256(pieces).hexdigest()
    assert not sampled.hashed_whole


def test_many_small_files_are_known_whole(tmp_path):
    for number in range(300):
        (tmp_path / f"{number:03d}.txt").write_text(f"text {number}\n")
    before = find_sources([str(tmp_path / "*.txt")])
    assert all(source.hashed_whole for source in before)
    file = tmp_path / "123.txt"
    facts = file.stat()
    file.write_text("text 321\n")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = find_sources([str(tmp_path / "*.txt")])
    assert [a.name for a, b in zip(after, before, strict=True) if a.identity() != b.identity()] == ["123.txt"]


@pytest.mark.parametrize(
    "other",
    [
        [Row("f", 0, "a", "bc", ())],
        [Row("f", 0, "ab", "c", ("k",))],
        [Row("f", 0, "ab", "c", ()), Rejection("f", 1, 2, "why")],
        [Rejection("f", 0, 1, "why")],
        [],
    ],
)
def test_a_digest_tells_rows_apart(other):
    def digest(rows):
        made = RowsDigest()
        for row in rows:
            made.add(row)
        return made.hexdigest()

    assert digest(other) != digest([Row("f", 0, "ab", "c", ())])
    assert digest([Row("g", 7, "ab", "c", ())]) == digest([Row("f", 0, "ab", "c", ())])  # wherever it lies


def test_a_shard_with_fewer_rows_left_is_refused(tmp_path):
    write_lines(tmp_path / "a.txt", texts()[:5])
    plan = Plan.of(find_sources([str(tmp_path / "a.txt")]), 4)
    with pytest.raises(InputError, match="shard 00000-00002 was made of"):
        check_made(plan, 0, Columns(), {ShardKey(0, 2): Made(4, "0" * 32)})


def test_an_output_of_a_former_format_is_refused_by_name(started, capsys):
    _, command, output = started("a.txt")
    for file in (output / "manifest.json", output / ".tsjax" / "job.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 1}))
    for arguments in (command, ["batch", "status", output], ["batch", "verify", output], ["search", output, "the"]):
        capsys.readouterr()
        assert batch_jobs.run(*arguments) == 2
        assert "has the format 1, and this version of tsjax knows 2" in capsys.readouterr().err
    assert Path(output / "vectors").is_dir()
