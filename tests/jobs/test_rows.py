import contextlib
import csv
import gzip
import itertools
import json
import os
import sys
import tracemalloc
import warnings
from datetime import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from tsjax.errors import InputError, MissingExtraError
from tsjax.jobs.input.columns import Columns, Rejection, Row
from tsjax.jobs.input.rows import open_rows
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.plan import GroupReader, Plan, ShardKey, Worker


def rows_of(path, columns=None, skip=0):
    (source,) = find_sources([str(path)])
    with contextlib.closing(open_rows(source, columns or Columns())) as reader:
        assert reader.skip(skip) == skip
        return list(reader.read())


def short(rows):
    """Return texts, and the reasons for which rows are rejected."""
    return [row.text if isinstance(row, Row) else (row.row, row.line, row.reason) for row in rows]


def write(path, data):
    path.write_bytes(data)
    return path


def test_lines(tmp_path):
    file = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\n\ntw\xffo\nthree")
    rows = rows_of(file)
    assert short(rows) == ["one", "", (2, 3, "not UTF-8 (byte 2 is 0xff)"), "three"]
    assert rows[0] == Row("a.txt", 0, "a.txt:0", "one", (), 1)
    assert short(rows_of(file, skip=3)) == ["three"]
    with pytest.raises(InputError, match="have no column 'id'"):
        rows_of(file, Columns(id="id"))


def test_jsonl(tmp_path):
    lines = [
        b'{"id": 1, "text": "one", "x": {"y": [1]}}',
        b"",
        b'{"id": 2, "text": null}',
        b'{"id": 3, "text": 5}',
        b'{"id": 4}',
        b'{"text": "no id"}',
        b'{"id": 5, "text": "\\ud800"}',
        b'{"id": 6, "text": "a',
        b"[" * 100_000,
        b"7",
        b'{"id": 8, "text": "\xff"}',
        b'{"id": true, "text": "a"}',
        b'{"id": "nine", "text": "nine", "x": "plain"}',
    ]
    columns = Columns(id="id", keep=("x",))
    rows = rows_of(write(tmp_path / "a.jsonl", b"\n".join(lines) + b"\n"), columns)
    assert [row.id for row in rows if isinstance(row, Row)] == ["1", "true", "nine"]
    assert [row.kept for row in rows if isinstance(row, Row)] == [('{"y": [1]}',), (None,), ("plain",)]
    rejected = [row for row in rows if isinstance(row, Rejection)]
    assert [row.line for row in rejected] == [3, 4, 5, 6, 7, 8, 9, 10, 11]  # A blank line is not a row.
    assert [row.row for row in rejected] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    reasons = [
        "'text' is null",
        "'text' is 5, not",
        "no 'text'",
        "no id 'id'",
        "lone surrogate",
        "not JSON",
        "not JSON",
    ]
    reasons += ["not a JSON object", "not UTF-8 (byte 19 is 0xff)"]
    for row, reason in zip(rejected, reasons, strict=True):
        assert reason in row.reason


def test_a_column_that_is_kept_too_is_what_it_was(tmp_path):
    lines = [{"key": [1], "text": "a"}, {"key": 1, "text": 5}, {"key": 2, "text": ["a"]}, {"key": 3, "text": "b"}]
    file = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    kept = rows_of(file, Columns(id="key", keep=("key", "text", "absent")))
    assert [row.kept for row in kept if isinstance(row, Row)] == [("3", "b", None)]
    assert [row if isinstance(row, Rejection) else row._replace(kept=()) for row in kept] == rows_of(
        file, Columns(id="key")
    )


def test_csv_and_tsv(tmp_path):
    data = b'id,text\r\n1,"a, ""b""\nc"\r\n\r\n2\r\n3,d\xe9\r\n4,"x"y\r\n5,e\r\n6,"open\r\n7,f\r\n'
    rows = rows_of(write(tmp_path / "a.csv", data), Columns(id="id"))
    assert short(rows[:1]) == ['a, "b"\nc']
    assert [row.row for row in rows] == list(range(len(rows)))
    assert "1 cell and the header 2" in rows[1].reason
    assert rows[2].reason == "'text' is not UTF-8 (it has the byte 0xe9)"
    assert "not doubled" in rows[3].reason
    assert rows[4].text == "e"
    assert rows[5].line == 9  # A quotation mark that is never closed takes only its own line.
    assert rows[6].text == "f"
    assert len(rows) == 7
    assert short(rows_of(write(tmp_path / "a.tsv", b"id\tbody\n1\ta, b\n"), Columns(text="body"))) == ["a, b"]
    assert rows_of(write(tmp_path / "empty.csv", b"")) == []
    assert short(rows_of(write(tmp_path / "blank.csv", b"\n\ntext\na\n"))) == ["a"]
    with pytest.raises(InputError, match="no column 'text'; it has id, body"):
        rows_of(write(tmp_path / "b.csv", b"id,body\n"))


def test_an_input_without_a_name():
    with pytest.raises(InputError, match="the name of an input is empty"):
        find_sources([""])


def test_csv_is_passed_over_by_rows_not_lines(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([f"{i}\n{i}"] for i in range(20))])
    assert short(rows_of(tmp_path / "a.csv", skip=7)) == [f"{i}\n{i}" for i in range(7, 20)]


def test_parquet(tmp_path):
    texts = [*(f"text {i}" for i in range(3000)), None]
    table = pa.table({"id": list(range(3001)), "text": texts, "when": pa.array(range(3001), pa.timestamp("s"))})
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1300)
    columns = Columns(id="id", keep=("when",))
    rows = rows_of(tmp_path / "a.parquet", columns)
    assert short(rows) == [*texts[:-1], (3000, None, "'text' is null")]
    assert rows[17].id == "17"
    for skip in (1, 1023, 1024, 1300, 2700, 3001):
        assert rows_of(tmp_path / "a.parquet", columns, skip=skip) == rows[skip:]
    with pytest.raises(InputError, match="no column 'body'; it has id, text, when"):
        rows_of(tmp_path / "a.parquet", Columns(text="body"))
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        rows_of(write(tmp_path / "no.parquet", b"nothing"))


def test_parquet_is_read_once_however_it_is_passed_over(tmp_path, monkeypatch):
    """Skipping some shards and reading others passes through a row group once, in the order of its rows."""
    texts = [f"text {i}" for i in range(30_000)]
    pa.parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=20_000)
    batches, real = [], pa.parquet.ParquetFile.iter_batches

    def counted(*arguments, **more):
        for batch in real(*arguments, **more):
            batches.append(len(batch))
            yield batch

    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", counted)
    sources = find_sources([str(tmp_path / "a.parquet")])
    for size, count in ((300, 2), (1024, 3), (7000, 4), (21_000, 2)):
        for index in range(count):
            batches.clear()
            reader = GroupReader(sources, Columns())
            slices = reader.slices(size, 0, lambda key, n=count, i=index: key.index % n == i)
            found = {shard.key.index: short(shard.rows) for shard in slices}
            reader.close()
            wanted = range(index, -(-30_000 // size), count)
            assert found == {number: texts[number * size : (number + 1) * size] for number in wanted}
            assert sum(batches) <= 30_000
    batches.clear()
    assert short(rows_of(tmp_path / "a.parquet", skip=20_000)) == texts[20_000:]
    assert sum(batches) == 10_000  # A row group that is skipped entirely is not read.


def test_parquet_is_read_in_pieces_of_its_row_groups(tmp_path):
    """Memory does not depend on the size of row groups, which are often hundreds of megabytes."""
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(33, 127, 1000))) for _ in range(16_000)]
    pa.parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=16_000)
    del texts
    (source,) = find_sources([str(tmp_path / "a.parquet")])
    tracemalloc.start()  # Arrow's reads from a Python file are Python bytes.
    with contextlib.closing(open_rows(source, Columns())) as reader:
        before, peak = pa.total_allocated_bytes(), 0
        for _ in itertools.islice(reader.read(), 10):
            peak = max(peak, pa.total_allocated_bytes())
    peak += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < 8_000_000 < source.size / 1.5


def test_parquet_with_text_that_is_not_utf8(tmp_path):
    data = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    pa.parquet.write_table(pa.table({"text": data}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert short(rows)[::2] == ["a", "b"]
    assert "is not UTF-8" in rows[1].reason


def test_kept_values_of_parquet_that_python_has_not(tmp_path):
    columns = Columns(keep=("k",))

    def rows(values, skip=0):
        pa.parquet.write_table(pa.table({"text": ["a", "b"], "k": values}), tmp_path / "a.parquet")
        return rows_of(tmp_path / "a.parquet", columns, skip)

    for beyond in (pa.array([1, 10**15], pa.timestamp("ms")), pa.array([1, -(10**6)], pa.date32())):
        good, bad = rows(beyond)
        assert good.kept == (beyond[0].as_py(),)
        assert "'k' cannot be read: date value out of range" in bad.reason
    for kind in (pa.time64("ns"), pa.list_(pa.time64("ns")), pa.struct([("x", pa.list_(pa.time64("ns"), 1))])):
        with pytest.raises(InputError, match=r"a.parquet has 'k' as .*time64\[ns\].*would be lost"):
            rows(pa.nulls(2, kind))
    pyarrow.parquet.write_table(pa.table({"text": ["a"], "k": pa.array([1], pa.time64("ns"))}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="would be lost"):
        rows_of(tmp_path / "a.parquet", Columns(id="k"))
    assert [row.kept for row in rows(pa.array([1, None], pa.time64("us")))] == [(time(microsecond=1),), (None,)]


def test_packed_files(tmp_path):
    data = b'{"text": "one"}\n{"text": "two"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data) + gzip.compress(data))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data) + zstandard.compress(data))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        assert short(rows_of(tmp_path / name)) == ["one", "two"] * 2
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(10_000)))
    with pytest.raises(InputError, match=r"cannot read .*cut.jsonl.gz beyond line"):
        rows_of(write(tmp_path / "cut.jsonl.gz", whole[: len(whole) // 2]))
    with pytest.raises(InputError, match=r"no.jsonl.zst is not compressed by zstd"):
        rows_of(write(tmp_path / "no.jsonl.zst", b"nothing at all"))
    pa.parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    packed = gzip.compress((tmp_path / "a.parquet").read_bytes())
    with pytest.raises(InputError, match="Parquet within gzip"):
        find_sources([str(write(tmp_path / "a.parquet.gz", packed))])


def test_zstd_that_is_cut_is_an_error(tmp_path):
    lines = [b'{"text": "%d"}\n' % (i * 7919 % 10_007) for i in range(20_000)]
    packer, data = zstandard.ZstdCompressor().compressobj(), b""
    for start in range(0, len(lines), 500):  # Each block can be unpacked before the next is there.
        data += packer.compress(b"".join(lines[start : start + 500]))
        data += packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    data += packer.flush()
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0none"
    for whole in (data, data + zstandard.compress(b"".join(lines)), skippable + data + skippable):
        frames = 2 if len(whole) > len(data) + 100 else 1
        assert len(rows_of(write(tmp_path / "a.jsonl.zst", whole))) == frames * len(lines)
        assert len(rows_of(tmp_path / "a.jsonl.zst", skip=15_000)) == frames * len(lines) - 15_000
    for kept in (4, len(data) // 2, len(data) - 1, len(data) + 3):
        with pytest.raises(InputError, match=r"a.jsonl.zst beyond line \d+: .* in the midst of"):
            rows_of(write(tmp_path / "a.jsonl.zst", (data + data)[:kept]))
    assert rows_of(write(tmp_path / "a.jsonl.zst", b"")) == []


def test_urls(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/b.jsonl", b'{"text": "b"}\n')
    memory.pipe("/corpus/a.jsonl.gz", gzip.compress(b'{"text": "a"}\n'))
    sources = find_sources(["memory://corpus/*.jsonl*"])
    assert [source.name for source in sources] == ["a.jsonl.gz", "b.jsonl"]
    assert sources[0].version != "unknown"
    reader = GroupReader(sources, Columns())
    assert [short(shard.rows) for shard in reader.slices(10, 0, lambda key: True)] == [["a", "b"]]
    with pytest.raises(InputError, match="no file matches memory://corpus/x"):
        find_sources(["memory://corpus/x*"])


def test_lines_of_a_url_are_read_in_large_pieces(monkeypatch):
    """A store's own file objects return each line by itself, which costs far more than in a file on disk."""
    import fsspec
    from fsspec.spec import AbstractBufferedFile

    memory = fsspec.filesystem("memory")
    memory.pipe("/lines/a.txt", b"".join(b"%d\n" % number for number in range(10_000)))
    reads = []

    class Remote(AbstractBufferedFile):
        def _fetch_range(self, start, end):
            return memory.cat_file(self.path, start, end)

        def read(self, length=-1):
            reads.append(length)
            return super().read(length)

        def readline(self):
            raise AssertionError("line by line")

        __next__ = readline

    monkeypatch.setattr(
        type(memory), "_open", lambda self, path, mode, **_: Remote(self, path, mode, size=self.size(path))
    )
    assert short(rows_of("memory://lines/a.txt")) == [str(number) for number in range(10_000)]
    assert len(reads) < 4


def test_names_that_cannot_be_written_or_look_like_patterns(tmp_path):
    import fsspec

    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("x\n")
    for pattern in (name, "*.txt"):
        with pytest.raises(InputError, match=r"caf\\udce9.txt' is not UTF-8; give it another name"):
            find_sources([str(tmp_path / pattern)])
    fsspec.filesystem("memory").pipe("/brackets/y[1].txt", b"x\n")
    for pattern in ("memory://brackets/y[1].txt", "memory://brackets/*.txt"):
        (source,) = find_sources([pattern])
        assert (source.name, source.size) == ("y[1].txt", 2)
        assert short(rows_of(source.url)) == ["x"]


@pytest.mark.parametrize(
    ("package", "name", "magic"),
    [
        ("zstandard", "a.jsonl.zst", b"\x28\xb5\x2f\xfd"),
        ("pyarrow", "a.parquet", b"PAR1"),
        ("pyarrow", "a.arrow", b"ARROW1"),
    ],
)
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package, name, magic):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.parquet", None)
    monkeypatch.setitem(sys.modules, f"{package}.ipc", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tsjax\[batch\]'"):
        rows_of(write(tmp_path / name, magic))


def test_a_url_without_fsspec_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tsjax\[batch\]'"):
        find_sources(["s3://bucket/a.jsonl"])


def test_files_are_found(tmp_path):
    for name in ("b/x.jsonl", "a/x.jsonl", "a/y[1].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    sources = find_sources([str(tmp_path / "**" / "*.jsonl"), str(tmp_path / "a" / "x.jsonl")])
    assert [source.name for source in sources] == ["a/x.jsonl", "a/y[1].jsonl", "b/x.jsonl"]
    assert [source.name for source in find_sources([str(tmp_path / "a" / "y[1].jsonl")])] == ["y[1].jsonl"]
    with pytest.raises(InputError, match="is a folder; name its files"):
        find_sources([str(tmp_path / "a")])
    with pytest.raises(InputError, match="no file matches"):
        find_sources([str(tmp_path / "*.parquet")])


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_folder_that_a_pattern_matches_is_told(tmp_path, where):
    import fsspec

    for name in ("in/a.csv", "in/x.csv/part-0.csv", "in/sub/b.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\na\n")
        fsspec.filesystem("memory").pipe(f"/folders/{name}", b"text\na\n")
    base = str(tmp_path) if where == "disk" else "memory://folders"
    for pattern in ("*.csv", "[ax].csv"):
        with pytest.warns(UserWarning, match=r"matches .*in/x\.csv, which is a folder; .*in/x.csv/\*") as told:
            assert [source.name for source in find_sources([f"{base}/in/{pattern}"])] == ["a.csv"]
        assert len(told) == 1
    for pattern in ("in/**/*.csv", "in/**", "in/a*"):  # These patterns also match the folder's files.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert find_sources([f"{base}/{pattern}"])
    with pytest.raises(InputError, match=r"no file matches .*in/x\.csv is a folder; name its files"):
        find_sources([f"{base}/in/x*"])


def test_a_link_to_nothing_that_a_pattern_matches_is_told(tmp_path):
    write(tmp_path / "a.txt", b"a\n")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.warns(UserWarning, match=r"matches .*b\.txt, which is no file"):
        assert len(find_sources([str(tmp_path / "*.txt")])) == 1
    with pytest.raises(InputError, match=r"b\.txt is no file"):
        find_sources([str(tmp_path / "b*.txt")])


def test_a_folder_of_a_store_is_no_input():
    import fsspec

    fsspec.filesystem("memory").pipe("/folder/x.csv/part-0.csv", b"text\na\n")
    with pytest.raises(InputError, match="is a folder; name its files"):
        find_sources(["memory://folder/x.csv"])


@pytest.mark.parametrize("info", [{"size": None, "type": "file"}, {"type": "file"}])
def test_a_store_that_does_not_say_how_large_a_file_is(monkeypatch, info):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/sizeless/a.txt", b"a\n")
    monkeypatch.setattr(type(memory), "info", lambda self, path, **_: info)
    with pytest.raises(InputError, match="does not say how large"):
        find_sources(["memory://sizeless/a.txt"])


def test_a_file_is_read_once_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.txt", "e/f/b.txt", "e/a.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x\n")
    Path("link.txt").symlink_to("d/a.txt")
    names = ["d/a.txt", "./d/a.txt", str(tmp_path / "d" / "a.txt"), "d/../d/a.txt", "link.txt", "d/*.txt"]
    assert [source.url for source in find_sources(names)] == ["d/a.txt"]
    Path("d/f").symlink_to(tmp_path / "e" / "f")  # beyond which .. is another folder
    with pytest.raises(InputError, match=r"d/f/../a.txt and d/a.txt would both be called a.txt"):
        find_sources(["d/f/../a.txt", "d/a.txt"])


def test_a_template(tmp_path):
    lines = [{"title": "T", "body": "B"}, {"title": None, "body": "B"}, {"body": None}, {"title": 1, "body": "B"}]
    file = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert short(rows_of(file, Columns(template=r"{title}\n{body}!"))) == [
        "T\nB!",
        "\nB!",
        (2, 3, "'title', 'body' are all null"),
        "1\nB!",
    ]
    for template, message in [("no column", "names no column"), ("{a!r}", "more or less"), ("{a", "cannot be read")]:
        with pytest.raises(InputError, match=message):
            Columns(template=template)
    with pytest.raises(InputError, match="cannot be named 'embedding'"):
        Columns(keep=("embedding",))


def test_the_plan_depends_on_the_inputs_alone(tmp_path):
    for name, size in [("a", 10), ("b", 10), ("c", 100), ("d", 5), ("e", 5)]:
        (tmp_path / name).write_bytes(b"x\n" * (size // 2))
    plan = Plan.of(find_sources([str(tmp_path / "*")]), 4, group_bytes=25)
    assert [[source.name for source in group] for group in plan.groups] == [["a", "b"], ["c"], ["d", "e"]]
    keys = [ShardKey(group, index) for group in range(3) for index in range(20)]
    for count in (1, 2, 3, 7):
        owners = [[plan.is_for(Worker(index, count), key) for index in range(count)] for key in keys]
        assert all(sum(owner) == 1 for owner in owners)
    many = Plan(plan.groups * 40, 4)
    assert many.groups_for(Worker(1, 4)) == list(range(1, 120, 4))
    assert plan.groups_for(Worker(1, 4)) == [0, 1, 2]


def test_shards_go_on_over_the_files_of_a_group(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"a{i}\n" for i in range(5)))
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text("".join(f"c{i}\n" for i in range(6)))
    sources = find_sources([str(tmp_path / "*.txt")])
    texts = [f"a{i}" for i in range(5)] + [f"c{i}" for i in range(6)]

    def shards(size, wanted):
        slices = GroupReader(sources, Columns()).slices(size, 0, wanted)
        return {shard.key.index: [row.text for row in shard.rows] for shard in slices}

    for size in (1, 2, 4, 5, 11, 12):
        every = {place // size: texts[place : place + size] for place in range(0, 11, size)}
        assert shards(size, lambda key: True) == every
        for remainder in (0, 1):
            some = {index: rows for index, rows in every.items() if index % 2 == remainder}
            assert shards(size, lambda key, r=remainder: key.index % 2 == r) == some
    assert GroupReader(sources[1:2], Columns()).at_end()
    assert [list(shard.rows) for shard in GroupReader(sources[1:2], Columns()).slices(4, 0, lambda key: True)] == [[]]


def test_a_file_that_changes_while_it_is_read(tmp_path):
    file = write(tmp_path / "a.txt", b"one\ntwo\n")
    reader = GroupReader(find_sources([str(file)]), Columns())
    file.write_bytes(b"one\ntwo\nthree\n")
    with pytest.raises(InputError, match="was changed while it was read"):
        list(next(iter(reader.slices(10, 0, lambda key: True))).rows)
