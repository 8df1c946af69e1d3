"""Shards into a database: what any sink is asked for, and LanceDB for real."""

import itertools
import json
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import batch_jobs
import lancedb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tsjax.errors import InputError, MissingExtraError, OutputError
from tsjax.jobs.plan import ShardKey
from tsjax.jobs.records import Output
from tsjax.jobs.sinks import lance
from tsjax.jobs.sinks.loading import label, load
from tsjax.jobs.sinks.sink import open_sink

KEYS = {True: ["id", "chunk"], False: ["id"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return batch_jobs.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return batch_jobs.write_corpus(tmp_path_factory.mktemp("corpus"), rows=120)


@pytest.fixture(scope="module")
def done(model, corpus, tmp_path_factory):
    """An output that nobody has loaded yet, of eight shards."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, output, "--id-column", "id", "--keep", "title")) == 0
    return Output(output)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    jobs = batch_jobs.Jobs(tmp_path_factory.mktemp("jobs"))
    yield jobs
    jobs.close()


def stored(output, late=False):
    """The shards' rows, with the labels that a sink gives them, in a fixed order."""
    tables = []
    for key in Output(output).record_keys():
        table = pq.read_table(Path(output) / "vectors" / f"shard-{key}.parquet")
        labels = [label(Output(output).read_record(key))] * len(table)
        tables.append(table.append_column(lance.LABEL, pa.array(labels, pa.string())))
    return ordered(pa.concat_tables(tables), late)


def loaded(folder, late=False):
    """A table's rows, in the same order."""
    return ordered(lancedb.connect(folder).open_table("t").to_arrow(), late)


def ordered(table, late):
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in KEYS[late]])
    return table.take(order).combine_chunks()


def sink(folder, output):
    return open_sink(f"lancedb://{folder}/t", Output(output.path).job())


def versions(folder):
    return lancedb.connect(folder).open_table("t").version


# -- the whole command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "ubinary"])
def test_a_table_holds_what_the_shards_hold(model, corpus, tmp_path, precision, capsys):
    more = ["--id-column", "id", "--keep", "title", "--precision", precision, "--sink", f"lancedb://{tmp_path}/db/t"]
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out", *more)) == 0
    assert f"lancedb://{tmp_path}/db/t holds 114 rows of 8 shards (8 added now)" in capsys.readouterr().err
    assert loaded(tmp_path / "db") == stored(tmp_path / "out")
    # And it is found there, by what the numbers are.
    table = lancedb.connect(tmp_path / "db").open_table("t")
    distance = "hamming" if precision == "ubinary" else "cosine"
    row = table.search().limit(1).to_list()[0]
    best = table.search(row["embedding"]).distance_type(distance).limit(114).to_list()
    assert row["id"] in [hit["id"] for hit in best if hit["_distance"] == pytest.approx(best[0]["_distance"], abs=1e-3)]


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


def test_rejected_rows_alone_make_an_empty_table(model, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": null}\n')
    more = ["--sink", f"lancedb://{tmp_path}/db/t"]
    command = batch_jobs.arguments(model, [tmp_path / "in.jsonl"], tmp_path / "out", *more)
    assert batch_jobs.run(*command) == batch_jobs.run(*command) == 0


# -- kills --------------------------------------------------------------------------------------------------------------

# Loads an output shard by shard and kills itself before or after one of its commits.
_KILLED = textwrap.dedent("""
    import os, sys
    from tsjax.jobs.records import Output
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
    # Each resumes what the one before it left; shards that are there are not added again.
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
        lambda: manifest.exists(),
        lambda: len(list((tmp_path / "out" / "records").glob("*"))) >= 4,
        lambda: (tmp_path / "db" / "t.lance").exists(),
        lambda: (tmp_path / "db" / "t.lance" / "data").exists(),
    ]
    kills = 0
    for moment in moments:
        process = jobs.start(*command)
        while process.alive() and not moment():
            pass
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
    assert loaded(tmp_path / "db") == stored(done.path)  # whoever embedded what


# -- what is put right --------------------------------------------------------------------------------------------------


def test_rows_that_are_lost_doubled_or_old_are_put_right(done, tmp_path):
    load(done, done.record_keys(), sink(tmp_path / "db", done))
    table = lancedb.connect(tmp_path / "db").open_table("t")
    rows = table.to_arrow()
    first, second, third = sorted(set(rows[lance.LABEL].to_pylist()))[:3]
    table.delete("id = '0-1'")  # of the first
    table.add(rows.filter(pc.equal(rows[lance.LABEL], second)))
    table.update(where=f"{lance.LABEL} = '{third}'", values={lance.LABEL: f"{third[:-4]}0000"})
    table.add(pa.table({"id": ["of the user"]}))
    found = load(done, done.record_keys(), sink(tmp_path / "db", done))
    assert found.added_shards == 3
    table.checkout_latest()
    assert table.count_rows("id = 'of the user'") == 1
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
    """As where the file system has no locks."""
    load(done, done.record_keys()[:1], sink(tmp_path / "db", done))
    ours, theirs = (sink(tmp_path / "db", done) for _ in range(2))
    load(done, done.record_keys(), theirs)
    assert load(done, done.record_keys(), ours).added_shards == 0
    # Even if ours had looked before theirs had written.
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
    """A sink in memory that is not atomic: it fails in the midst of every third change."""

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


# -- what is refused ----------------------------------------------------------------------------------------------------


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
def test_what_is_refused_before_any_work(model, corpus, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert batch_jobs.run(*batch_jobs.arguments(model, corpus, tmp_path / "out", *more)) == 2
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


def test_a_table_that_another_job_makes_meanwhile_is_refused(done, tmp_path):
    ours = sink(tmp_path / "db", done)
    theirs = pa.schema([("id", pa.string())], metadata={"tsjax": json.dumps({"job": "another"})})
    lancedb.connect(tmp_path / "db").create_table("t", schema=theirs)
    with pytest.raises(InputError, match="holds the rows of another job"):
        load(done, done.record_keys(), ours)


def test_a_folder_that_cannot_be(done, tmp_path):
    (tmp_path / "db").write_text("a file")
    with pytest.raises(OutputError, match="cannot be used"):
        load(done, done.record_keys(), sink(tmp_path / "db", done))


def test_without_the_package(done, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tsjax\[lancedb\]'"):
        sink(tmp_path / "db", done)
