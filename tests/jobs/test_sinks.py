"""Shards in a database: the content of the table, repairs, and refusals."""

import itertools
import json
import sys
import types

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support import batch_jobs
from tests.support.lance_tables import loaded, sink, stored, versions
from tests.support.lazy import lazy
from tsjax.errors import InputError, MissingExtraError, OutputError
from tsjax.jobs.plan import ShardKey
from tsjax.jobs.sinks import lance
from tsjax.jobs.sinks.loading import label, load

lancedb = lazy("lancedb")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=120)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "ubinary"])
def test_a_table_holds_what_the_shards_hold(model, corpus, tmp_path, precision, capsys):
    more = ["--id-column", "id", "--keep", "title", "--precision", precision, "--sink", f"lancedb://{tmp_path}/db/t"]
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out", *more)) == 0
    assert f"lancedb://{tmp_path}/db/t holds 114 rows of 8 shards (8 added now)" in capsys.readouterr().err
    assert loaded(tmp_path / "db") == stored(tmp_path / "out")
    # The rows can be searched by a distance that suits the numbers.
    table = lancedb.connect(tmp_path / "db").open_table("t")
    distance = "hamming" if precision == "ubinary" else "cosine"
    row = table.search().limit(1).to_list()[0]
    best = table.search(row["embedding"]).distance_type(distance).limit(114).to_list()
    assert row["id"] in [hit["id"] for hit in best if hit["_distance"] == pytest.approx(best[0]["_distance"], abs=1e-3)]


@pytest.mark.slow
def test_late_chunks_have_a_row_each(model, tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": "the cat sat " * n}) + "\n" for n in (1, 9, 2, 7)))
    more = ["--long-texts", "late", "--chunk-tokens", "4", "--sink", f"lancedb://{tmp_path}/db/t"]
    assert batch_jobs.run(*batch_jobs.arguments(model, [tmp_path / "in.jsonl"], tmp_path / "out", *more)) == 0
    rows = loaded(tmp_path / "db", late=True)
    assert rows == stored(tmp_path / "out", late=True)
    assert max(rows["chunk"].to_pylist()) >= 4
    assert {"start", "end", "tokens"} < set(rows.column_names)


def test_a_finished_output_is_loaded_without_embedding_and_only_once(model, corpus, tmp_path, capsys):
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--id-column", "id")
    assert batch_jobs.run(*command) == 0
    before = batch_jobs.contents(tmp_path / "out")
    command += ["--sink", f"lancedb://{tmp_path}/db/t", "--json-log"]
    for added in (8, 0):
        capsys.readouterr()
        assert batch_jobs.run(*command) == 0
        events = {event["event"]: event for event in map(json.loads, capsys.readouterr().err.splitlines())}
        assert events["done"]["computed_shards"] == 0
        facts = {name: events["sink"][name] for name in ("shards", "rows", "added_shards")}
        assert facts == {"shards": 8, "rows": 114, "added_shards": added}
    assert batch_jobs.contents(tmp_path / "out") == before
    assert loaded(tmp_path / "db") == stored(tmp_path / "out")
    assert versions(tmp_path / "db") == 2  # an empty table, and one commit


def test_rejected_rows_alone_load_nothing_and_are_no_success(model, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text('{"text": null}\n')
    more = ["--sink", f"lancedb://{tmp_path}/db/t"]
    command = batch_jobs.arguments(model, [tmp_path / "in.jsonl"], tmp_path / "out", *more)
    for _ in range(2):
        assert batch_jobs.run(*command) == 2
        assert "t holds 0 rows of 1 shard (" in capsys.readouterr().err


def test_rows_that_are_lost_doubled_or_old_are_put_right(done, tmp_path):
    load(done, done.record_keys(), sink(tmp_path / "db", done))
    table = lancedb.connect(tmp_path / "db").open_table("t")
    rows = table.to_arrow()
    first, second, third = sorted(set(rows[lance.LABEL].to_pylist()))[:3]
    table.delete("id = '0-1'")  # a row of the first shard
    table.add(rows.filter(pc.equal(rows[lance.LABEL], second)))
    table.update(where=f"{lance.LABEL} = '{third}'", values={lance.LABEL: f"{third[:-4]}0000"})
    table.add(pa.table({"id": ["of the user"]}))
    table.add(pa.table({"id": ["of the user"], lance.LABEL: ["a label of the user's"]}))
    found = load(done, done.record_keys(), sink(tmp_path / "db", done))
    assert found.added_shards == 3
    table.checkout_latest()
    assert table.count_rows("id = 'of the user'") == 2
    table.delete("id = 'of the user'")
    assert loaded(tmp_path / "db") == stored(done.path)
    assert first < second < third


def test_a_worker_touches_its_own_shards_only(done, tmp_path):
    keys = done.record_keys()
    load(done, keys, sink(tmp_path / "db", done))
    lancedb.connect(tmp_path / "db").open_table("t").delete("true")
    assert load(done, keys[:3], sink(tmp_path / "db", done)).added_shards == 3
    held = set(loaded(tmp_path / "db")[lance.LABEL].to_pylist())
    assert {name.partition("/")[0] for name in held} == set(map(str, keys[:3]))
    assert load(done, keys[3:], sink(tmp_path / "db", done)).added_shards == 5
    assert loaded(tmp_path / "db") == stored(done.path)


def test_two_processes_that_do_the_same(done, tmp_path):
    """File systems without locks allow this."""
    load(done, done.record_keys()[:1], sink(tmp_path / "db", done))
    ours, theirs = (sink(tmp_path / "db", done) for _ in range(2))
    load(done, done.record_keys(), theirs)
    assert load(done, done.record_keys(), ours).added_shards == 0
    # This holds even if this process had looked before the other had written.
    counts, ours.counts = ours.counts, dict
    add = ours.add

    def added_late(shards):
        ours.counts = counts
        add(shards)

    ours.add = added_late
    load(done, done.record_keys(), ours)
    assert loaded(tmp_path / "db") == stored(done.path)


def test_a_table_whose_making_was_cut_short(done, tmp_path):
    (tmp_path / "db" / "t.lance" / "_versions").mkdir(parents=True)
    load(done, done.record_keys(), sink(tmp_path / "db", done))
    assert loaded(tmp_path / "db") == stored(done.path)


class Forgetful:
    """An in-memory sink that is not atomic: it fails in the middle of every third change."""

    def __init__(self, failures):
        self.rows, self._changes, self._failures = [], itertools.count(1), failures

    def counts(self):
        return {name: self.rows.count(name) for name in self.rows}

    def remove(self, keys):
        self.rows = [name for name in self.rows if ShardKey.parse(name.partition("/")[0]) not in keys]

    def add(self, shards):
        rows = [shard.label for shard in shards for _ in range(shard.rows)]
        if self._failures and next(self._changes) % 3 == 0:
            self.rows += rows[: len(rows) // 2]
            raise OutputError("the line is dead")
        self.rows += rows


def test_a_sink_need_not_be_atomic(done):
    sink, failures = Forgetful(failures=True), 0
    while True:
        try:
            load(done, done.record_keys(), sink, rows_a_step=1)
            break
        except OutputError:
            failures += 1
    assert failures > 1
    expected = {label(done.read_record(key)): done.read_record(key).rows for key in done.record_keys()}
    assert sink.counts() == expected


def test_steps_are_of_whole_shards(done):
    sizes, sink = [], Forgetful(failures=False)
    add = sink.add
    sink.add = lambda shards: (sizes.append([shard.rows for shard in shards]), add(shards))
    load(done, done.record_keys(), sink, rows_a_step=40)
    assert sum(map(sum, sizes)) == 114
    assert all(sum(step) <= 40 for step in sizes)
    assert len(sizes) == 4


def test_a_sink_that_never_comes_to_hold_them(done):
    deaf = types.SimpleNamespace(counts=dict, remove=lambda keys: None, add=lambda shards: None)
    with pytest.raises(OutputError, match="does not come to hold the shards"):
        load(done, done.record_keys(), deaf)


def test_a_commit_that_was_in_the_way_of_another_is_tried_again(monkeypatch):
    pauses = []
    monkeypatch.setattr(lance.time, "sleep", pauses.append)
    errors = [RuntimeError("Retryable commit conflict for version 7"), OSError("Too many concurrent writers. Try")]

    def commit():
        if errors:
            raise errors.pop()
        return "done"

    assert lance._explained("d/t", commit) == "done"
    assert len(pauses) == 2
    errors[:] = [ValueError("something else\nat length")]
    with pytest.raises(OutputError, match=r"^lancedb://d/t cannot be used: something else$"):
        lance._explained("d/t", commit)
    errors[:] = [RuntimeError("conflict")] * 99
    with pytest.raises(OutputError, match="conflict"):
        lance._explained("d/t", commit)
    assert len(errors) == 99 - lance._ATTEMPTS


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sink", "chroma://x/y"], "no sink for 'chroma://x/y'; known are lancedb://"),
        (["--sink", "/data/t"], "no sink for '/data/t'; known are lancedb://"),
        (["--sink", "lancedb://t"], "does not say DIR/TABLE"),
        (["--sink", "lancedb://d/"], "does not say DIR/TABLE"),
        (["--sink", "lancedb://d/t", "--format", "npy"], "from Parquet shards"),
        (["--sink", "lancedb://d/t", "--precision", "int8"], "LanceDB does not search vectors of int8"),
        (["--sink", "lancedb://d/t", "--precision", "binary"], "LanceDB does not search vectors of binary"),
        (["--sink", "lancedb://d/t", "--keep", "a.b"], "'a.b' cannot be kept in a table of LanceDB"),
        (["--sink", "lancedb://d/t", "--keep", "tsjax_shard"], "the table has one of its own"),
        (["--sink", "lancedb://d/no table!"], "may contain only"),
    ],
)
def test_what_is_refused_before_any_work(model, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text(json.dumps({"text": "a text", "a.b": 1, "tsjax_shard": "a value of the user's"}) + "\n")
    assert batch_jobs.run(*batch_jobs.arguments(model, [corpus], tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_job_or_of_somebody_else_is_refused(model, corpus, done, tmp_path, capsys):
    load(done, done.record_keys(), sink(tmp_path / "db", done))
    url = f"lancedb://{tmp_path}/db/t"
    command = batch_jobs.arguments(model, corpus, tmp_path / "out", "--sink", url)  # with other ids
    assert batch_jobs.run(*command) == 2
    assert "holds the rows of another job" in capsys.readouterr().err
    lancedb.connect(tmp_path / "db").create_table("t", pa.table({"id": ["a"]}), mode="overwrite")
    assert batch_jobs.run(*command) == 2
    assert "was not made by tsjax batch" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("columns", ["others", "the same"])
def test_a_table_that_another_job_makes_meanwhile_is_refused(done, tmp_path, columns):
    ours = sink(tmp_path / "db", done)
    stamp = {"tsjax": json.dumps({"job": "another"})}
    theirs = pa.schema([("id", pa.string())], stamp)
    if columns == "the same":
        theirs = pq.read_schema(done.vectors / "shard-00000-00000.parquet")
        theirs = theirs.append(pa.field(lance.LABEL, pa.string())).with_metadata(stamp)
    lancedb.connect(tmp_path / "db").create_table("t", schema=theirs)
    with pytest.raises(InputError, match="holds the rows of another job"):
        load(done, done.record_keys(), ours)


def test_a_table_that_cannot_be_made(done, tmp_path, monkeypatch):
    ours = sink(tmp_path / "db", done)

    def full(*arguments, **options):
        raise RuntimeError("no space left")

    monkeypatch.setattr(type(lancedb.connect(tmp_path / "db")), "create_table", full)
    with pytest.raises(OutputError, match="cannot be used: no space left"):
        load(done, done.record_keys(), ours)


def test_a_folder_that_cannot_be(done, tmp_path):
    (tmp_path / "db").write_text("a file")
    with pytest.raises(OutputError, match="cannot be used"):
        load(done, done.record_keys(), sink(tmp_path / "db", done))


def test_without_the_package(done, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tsjax\[lancedb\]'"):
        sink(tmp_path / "db", done)
