"""Shards cut by rows or by bytes of text, whichever comes first: the same for every worker, and after any kill."""

import itertools
import json
import random

import pyarrow.parquet
import pytest

import tsjax
from tests.support import batch_jobs
from tsjax.jobs.input import sources as inputs
from tsjax.jobs.input.columns import Columns
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.inspect.status import missing_shards, status
from tsjax.jobs.job import Model, Options
from tsjax.jobs.output.directory import Output
from tsjax.jobs.plan import GroupReader, Made, Plan, ShardKey, Worker, missing_shard
from tsjax.jobs.run.accounting import Books
from tsjax.jobs.run.worker_loop import JobRunner


def texts(rows=70, seed=1):
    rng = random.Random(seed)
    return [batch_jobs.make_text(rng, 1, 60 if row % 7 else 200) for row in range(rows)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Write a file of each kind with some texts that are much longer than others, and one invalid row."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [json.dumps({"text": text}) for text in texts()]
    lines[11] = "{"
    (folder / "a.jsonl").write_text("\n".join(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts(seed=2)}), folder / "b.parquet", row_group_size=9)
    return [folder / "a.jsonl", folder / "b.parquet"]


MORE = ("--bytes-per-shard", "1000")


@pytest.fixture(scope="module")
def whole(model, corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, output, *MORE)) == 0
    return output


def cuts(sizes, rows, most):
    """Yield the rows of each shard, by counting.

    In each group of `rows` rows, a shard ends as soon as its texts reach `most` bytes.
    """
    for start in range(0, len(sizes), rows):
        shard, size = [], 0
        for place in range(start, min(start + rows, len(sizes))):
            shard.append(place)
            size += sizes[place]
            if size >= most:
                yield shard
                shard, size = [], 0
        if shard:
            yield shard


@pytest.mark.parametrize("most", [1, 50, 300, 10**6])
def test_the_row_that_reaches_the_bytes_is_the_last(tmp_path, most):
    lines = [*texts(), "ж" * 40]  # two bytes each
    (tmp_path / "a.txt").write_text("\n".join(lines))
    reader = GroupReader(find_sources([str(tmp_path / "a.txt")]), Columns())
    found = {
        shard.key: [row.row for row in shard.rows]
        for shard in reader.slices(16, 0, lambda key: True, bytes_per_shard=most)
    }
    sizes = [len(line.encode()) for line in lines]
    assert list(found.values()) == list(cuts(sizes, 16, most))
    assert list(found) == sorted(found)
    assert [key.part for key, rows in found.items() if rows[0] % 16 == 0] == [0] * len(range(0, len(lines), 16))


def test_no_worker_needs_the_texts_of_another(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("\n".join(texts()))
    plan = Plan.of(find_sources([str(tmp_path / "a.txt")]), 8, 200)

    def shards(worker, done=()):
        reader = GroupReader(plan.sources, Columns())
        wanted = reader.slices(8, 0, lambda key: plan.is_for(worker, key), 200, done or {})
        return {shard.key: [row.row for row in shard.rows] for shard in wanted}

    alone = shards(Worker())
    assert any(key.part for key in alone)
    for count in (2, 3, 5):
        found = [shards(Worker(index, count)) for index in range(count)]
        assert dict(sorted(itertools.chain.from_iterable(own.items() for own in found))) == alone
    # Existing shards are skipped by their number of rows, wherever they lie in a range.
    rng = random.Random(2)
    for _ in range(20):
        done = {key: Made(len(rows), "") for key, rows in alone.items() if rng.random() < 0.5}
        assert shards(Worker(), done) == {key: rows for key, rows in alone.items() if key not in done}


def test_names_sort_as_the_rows_do():
    keys = [ShardKey(0, 1), ShardKey(0, 1, 1), ShardKey(0, 1, 2), ShardKey(0, 2), ShardKey(1, 0)]
    names = [f"shard-{key}.parquet" for key in keys]
    assert names == sorted(names)
    assert [ShardKey.parse(str(key)) for key in keys] == keys
    for text in ("00000", "00000-00001_00001_1", "00000-x", "00000-00001-00001"):
        with pytest.raises(ValueError, match=r"unpack|literal|0"):
            ShardKey.parse(text)


@pytest.mark.slow
def test_the_vectors_do_not_depend_on_the_cuts(model, corpus, whole, tmp_path):
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out")) == 0

    def rows(output):
        found = pyarrow.parquet.read_table(output / "vectors").to_pylist()
        return [(row["id"], [round(number, 4) for number in row["embedding"]]) for row in found]

    assert [name for name, _ in rows(whole)] == [name for name, _ in rows(tmp_path / "out")]
    shards = list((whole / "vectors").iterdir())
    assert len(shards) > len(list((tmp_path / "out" / "vectors").iterdir()))
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["job"]["options"]["bytes_per_shard"] == 1000
    assert sum(shard["input_rows"] for shard in manifest["shards"]) == 140
    assert status(Output(whole)).finished
    assert batch_jobs.run("batch", "verify", whole) == 0


@pytest.mark.slow
def test_other_bytes_a_shard_are_another_job(model, corpus, whole, capsys):
    command = batch_jobs.arguments(model, corpus, whole, "--bytes-per-shard", "1001")
    assert batch_jobs.run(*command) == 2
    assert "options.bytes_per_shard was 1000 and is 1001 now" in capsys.readouterr().err
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, whole, "--bytes-per-shard", "0")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("hashed", ["whole", "by samples"])
@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_lost_is_made_again(model, corpus, whole, tmp_path, seed, hashed, monkeypatch):
    """Shards in the middle of a range, its first, its last and several are lost; workers make the same bytes again."""
    rng = random.Random(seed)
    output = tmp_path / "out"
    commands = [batch_jobs.arguments(model, corpus, output, *MORE, "--shard", f"{index}/2") for index in range(2)]
    if hashed == "by samples":  # so that the rows of existing shards are compared
        for name, value in (("_HASHED_BYTES", 0), ("_LEAST_HASHED_BYTES", 100), ("_SAMPLE_BYTES", 32)):
            monkeypatch.setattr(inputs, name, value)
        whole = tmp_path / "whole"
        assert batch_jobs.run(*batch_jobs.arguments(model, corpus, whole, *MORE)) == 0
    assert [batch_jobs.run(*command) for command in commands] == [0, 0]
    for _ in range(2):
        keys = Output(output).record_keys()
        for key in rng.sample(keys, len(keys) // 2):
            (output / "records" / f"shard-{key}.json").unlink()
            if rng.random() < 0.5:
                (output / "vectors" / f"shard-{key}.parquet").unlink()
        assert not status(Output(output)).finished
        assert [batch_jobs.run(*command) for command in commands] == [0, 0]
    assert batch_jobs.run("batch", "verify", output) == 0
    expected, found = batch_jobs.contents(whole), batch_jobs.contents(output)
    assert {name: found[name] for name in expected} == expected


def test_pieces_as_ray_deals_them_out_make_the_same_shards(model, corpus, whole, tmp_path):
    options = Options(rows_per_shard=16, bytes_per_shard=1000)
    plan = Plan.of(find_sources([str(path) for path in corpus]), 16, 1000)
    output, pieces = Output(tmp_path / "out"), plan.pieces(5)
    assert len(pieces) == 5
    with output.working(Worker()) as partial:
        runner = JobRunner(Model.of(tsjax.load(model)), options, plan, output)
        books = Books(output, plan, runner.join())
        for piece in reversed(pieces):
            runner.make(books, piece, books.whole(piece), partial)
        assert not any(books.groups_left(piece, books.whole(piece)) for piece in pieces)
    expected = {name: content for name, content in batch_jobs.contents(whole).items() if "shard-" in name}
    assert batch_jobs.contents(output.path) == expected


def test_what_is_missing_of_a_range_is_named():
    rows = {ShardKey(0, 0): 3, ShardKey(0, 0, 1): 5, ShardKey(0, 1): 4, ShardKey(0, 1, 2): 2, ShardKey(0, 2): 1}
    last = {0: ShardKey(0, 2)}
    assert missing_shard(rows, 0, 0, 8, last[0]) is None
    assert missing_shard(rows, 0, 1, 8, last[0]) == ShardKey(0, 1, 1)
    assert missing_shard(rows, 0, 2, 8, last[0]) is None
    assert missing_shards(rows, last, [["a"]], 8) == ["shard 00000-00001_00001 is missing"]
    found = missing_shards(rows, {}, [["a"]], 8)
    assert len(found) == 2
    assert "the end of group 0" in found[0]
