"""Formats of files, recognised by name and first bytes; an unknown format is refused and never embedded."""

import base64
import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import sys
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from tests.support.reading_files import read, rejected_lines, texts, write
from tsjax.errors import InputError
from tsjax.jobs.input.columns import Columns, Rejection
from tsjax.jobs.input.formats import HEAD, Reading
from tsjax.jobs.input.rows import open_rows
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.input.texts import check_texts, count_texts, read_texts

ROWS = [{"id": 1, "text": "one [1], two"}, {"id": 2, "text": 'a "b" {c}'}, {"id": 3, "text": ""}]
TEXTS = [row["text"] for row in ROWS]
LINES = "\n".join(map(json.dumps, ROWS)) + "\n"


def table():
    return pa.table({"id": [row["id"] for row in ROWS], "text": TEXTS})


def parquet_bytes():
    data = io.BytesIO()
    pa.parquet.write_table(table(), data)
    return data.getvalue()


def arrow_bytes(kind, rows=None, chunk=2):
    data, content = io.BytesIO(), table() if rows is None else rows
    opener = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with opener(data, content.schema) as writer:
        writer.write_table(content, max_chunksize=chunk)
    return data.getvalue()


def archive(kind):
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as packed:
            packed.writestr("a.txt", "text\n")
    else:
        with tarfile.open(fileobj=data, mode="w") as packed:
            packed.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    return data.getvalue()


def npy_bytes():
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.JSON"])
@pytest.mark.parametrize(
    "data",
    [LINES, json.dumps(ROWS), json.dumps(ROWS, indent=2), "\ufeff \n" + json.dumps(ROWS), LINES.replace("\n", "\r\n")],
    ids=["lines", "one line", "indented", "mark", "crlf"],
)
def test_json_is_lines_or_one_array_by_its_first_bytes(tmp_path, name, data):
    rows = read(write(tmp_path / name, data), Columns(id="id"))
    assert texts(rows) == TEXTS
    assert [row.id for row in rows] == ["1", "2", "3"]
    assert texts(read(tmp_path / name, Columns(id="id"), 2)) == TEXTS[2:]


def test_an_array_costs_only_the_elements_that_are_broken(tmp_path, monkeypatch):
    data = '[{"text": "a"},\n {"text": "b" "c"},\n {"text": "d\\u0041"}, 7, "plain", {"text": null},\n{"text": "e"}]\n'
    for block in (1, 7, 1 << 18):
        monkeypatch.setattr("tsjax.jobs.input.json_array._BLOCK", block)
        rows = read(write(tmp_path / "a.json", data))
        assert texts(rows) == ["a", "dA", "plain", "e"]
        assert rejected_lines(rows) == [2, 3, 3]
        assert [read(tmp_path / "a.json", None, skip) for skip in range(8)] == [rows[skip:] for skip in range(8)]
    for broken in ('[{"text": "a"}', '[{"text": "a"} {"text": "b"}]', '[{"text": "a"}] more', '[{"text": "a'):
        with pytest.raises(InputError, match=r"a.json beyond line"):
            read(write(tmp_path / "a.json", broken))
    assert read(write(tmp_path / "a.json", "[]")) == []
    assert read(write(tmp_path / "a.json", "")) == []


def test_json_that_is_neither(tmp_path):
    for data in ('{\n "text": "a"\n}\n', "hello\nworld\n"):
        with pytest.raises(InputError, match="--input-format jsonl"):
            read(write(tmp_path / "a.json", data))
    assert isinstance(read(tmp_path / "a.json", format="jsonl")[0], Rejection)
    assert texts(read(write(tmp_path / "a.jsonl", '[1]\n{"text": "a"}\n'))) == ["a"]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.txt", "a.jsonl", "a.data", "a.arrow"])
@pytest.mark.parametrize("data", [parquet_bytes(), arrow_bytes("file"), arrow_bytes("stream")], ids=["p", "f", "s"])
def test_tables_are_known_by_their_first_bytes(tmp_path, name, data):
    rows = read(write(tmp_path / name, data), Columns(id="id"))
    assert texts(rows) == TEXTS
    assert [read(tmp_path / name, Columns(id="id"), skip) for skip in range(4)] == [rows[skip:] for skip in range(4)]
    assert list(read_texts(str(tmp_path / name))) == TEXTS
    with pytest.raises(InputError, match="as the input format says"):
        read(tmp_path / name, format="csv")
    with pytest.raises(InputError, match="no column 'body'"):
        read(tmp_path / name, Columns(text="body"))


def test_feather_with_compression_and_batches_that_are_skipped(tmp_path):
    many = pa.table({"other": list(range(5000)), "text": [f"text {i}" for i in range(5000)]})
    pa.feather.write_feather(many, str(tmp_path / "a.feather"), compression="zstd", chunksize=1500)
    for skip in (0, 1, 1499, 1500, 4700, 5000):
        assert texts(read(tmp_path / "a.feather", None, skip)) == many["text"].to_pylist()[skip:]


def test_an_arrow_stream_that_was_cut_or_goes_on(tmp_path):
    data = arrow_bytes("stream")
    for damaged in (data[:-8], data[: len(data) // 2], data + data):
        with pytest.raises(InputError, match=r"a\.arrow"):
            read(write(tmp_path / "a.arrow", damaged))


@pytest.mark.parametrize(
    "data",
    [
        archive("zip"), archive("tar"), npy_bytes(), pickle.dumps(TEXTS), b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        b"SQLite format 3\x00" + bytes(100), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), b"ORC" + bytes(9),
        b"Obj\x01\x04\x16avro.schema", b"\x89HDF\r\n\x1a\n" + bytes(30), bytes(range(256)) * 20,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "hello\nworld\n".encode("utf-16-le"),
        "hello\nworld\n".encode("utf-16-be"), b"\x04\x22\x4d\x18" + bytes(20), gzip.compress(archive("tar"), mtime=0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json", "a.parquet", "a", "a.bin", "a.xlsx"])
def test_what_is_no_text_is_never_embedded(tmp_path, data, name):
    with pytest.raises(InputError, match=rf"{name}"):
        find_sources([str(write(tmp_path / name, data))])
    with pytest.raises(InputError):
        list(read_texts(str(tmp_path / name)))


def test_lines_that_begin_like_other_formats_are_lines(tmp_path):
    lines = ["ORCHIDS are plants", "PAR1 is a mark", "[1] a citation", "{braces}", '"quoted"', "BZh", "Obj", "<b>"]
    for line in lines:
        assert texts(read(write(tmp_path / "a.txt", f"{line}\nmore\n"))) == [line, "more"]
        assert texts(read(write(tmp_path / "notes.md", f"{line}\nmore\n"))) == [line, "more"]


@pytest.mark.parametrize("word", ["mustard", "ustar", "ustar  text"])
def test_the_mark_of_tar_within_a_text_is_no_archive(tmp_path, word):
    """The text is not taken for an archive even if a stray control character precedes the mark."""
    for first in ("x", "\x1f"):
        before = first + "x" * (256 - word.index("ustar"))
        assert texts(read(write(tmp_path / "a.txt", f"{before}{word}\n"))) == [before + word]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_tar_are_refused(tmp_path, kind):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind) as packed:
        packed.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(InputError, match="is a tar archive"):
        find_sources([str(write(tmp_path / "a.txt", data.getvalue()))])


@pytest.mark.parametrize("name", ["a.txt", "notes.md"])
@pytest.mark.parametrize("word", ["PARERE", "ORC", "FEA1", "PAR1", "ARROW1"])
def test_letters_before_text_of_another_encoding_are_no_mark(tmp_path, name, word):
    rows = read(write(tmp_path / name, f"{word} \xe8 bello\nmore\n".encode("latin-1")))
    assert rejected_lines(rows) == [1]
    assert texts(rows) == ["more"]


@pytest.mark.parametrize("mark", [b"PARE", b"ORC", b"FEA1"])
def test_letters_before_other_bytes_than_text_are_a_mark(tmp_path, mark):
    with pytest.raises(InputError, match="which is not read"):
        find_sources([str(write(tmp_path / "a.txt", mark + b"\x15\x04text" * 9))])


@pytest.mark.parametrize("name", ["a.txt", "a.dat", "a", "a.geojson"])
@pytest.mark.parametrize("data", [LINES, json.dumps(ROWS), json.dumps(ROWS, indent=1), '["a", "b"]\n'])
def test_json_is_not_taken_for_lines_of_text(tmp_path, name, data):
    with pytest.raises(InputError, match="--input-format jsonl"):
        read(write(tmp_path / name, data))
    assert texts(read(tmp_path / name, format="txt"))[0] == data.split("\n")[0]


def test_structured_formats_are_not_taken_for_lines(tmp_path):
    for name, data in (("a.xml", "<a>\n"), ("a", "<?xml version='1.0'?>\n<a/>\n"), ("a.yaml", "- text: a\n")):
        with pytest.raises(InputError, match="--input-format txt"):
            read(write(tmp_path / name, data))
        assert texts(read(tmp_path / name, format="txt")) == data.splitlines()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_text_with_a_byte_order_mark_is_read(tmp_path, encoding):
    data = "id,text\n1,häuser\n2,\u65e5\u672c\n".encode(encoding)
    for name, content in (("a.csv", data), ("b.csv.gz", gzip.compress(data))):
        assert texts(read(write(tmp_path / name, content), Columns(id="id"))) == ["häuser", "\u65e5\u672c"]
    with pytest.raises(InputError, match="beyond line"):
        read(write(tmp_path / "a.csv", data + b"\x00"), Columns(id="id"))


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bz2.compress, lzma.compress])
def test_compression_is_known_by_its_first_bytes(tmp_path, pack):
    for name in ("a.jsonl", "a.json.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.ndjson.zst"):
        assert texts(read(write(tmp_path / name, pack(LINES.encode())))) == TEXTS
        assert texts(read(tmp_path / name, None, 2)) == TEXTS[2:]
    array = pack(json.dumps(ROWS * 5000).encode())
    assert len(read(write(tmp_path / "a.json", array))) == 15_000
    with pytest.raises(InputError, match="cannot read"):
        read(write(tmp_path / "a.json", array[: len(array) // 2]))
    for suffix in (".gz", ".zst", ".bz2", ".xz"):
        with pytest.raises(InputError, match="is not compressed"):
            read(write(tmp_path / f"a.jsonl{suffix}", LINES))


@pytest.mark.parametrize("window", [24, 28, 31])
def test_zstd_with_a_long_window(tmp_path, window):
    parameters = zstandard.ZstdCompressionParameters(window_log=window, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packer.compress(LINES.encode()) + packer.flush()
    file = write(tmp_path / "a.jsonl.zst", data)
    assert texts(read(file)) == list(read_texts(str(file))) == TEXTS


def test_standard_input_is_recognised_too(monkeypatch):
    class Slow(io.RawIOBase):
        """A pipe that gives few bytes at a time."""

        def __init__(self, data):
            self._data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            block = self._data.read(min(3, len(buffer)))
            buffer[: len(block)] = block
            return len(block)

    def given(data, **reading):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(Slow(data))))
        return list(read_texts("-", None, Reading(**reading)))

    assert given(b"a\n\nb\n") == ["a", "", "b"]
    assert given(gzip.compress(b"a\nb\n")) == ["a", "b"]
    assert given(arrow_bytes("stream")) == TEXTS
    assert given(json.dumps(ROWS).encode(), format="jsonl") == TEXTS
    assert given(b'text\n"a\nb"\n', format="csv") == ["a\nb"]
    for data in (LINES.encode(), archive("zip"), parquet_bytes()):
        with pytest.raises(InputError):
            given(data)


def test_a_column_is_refused_where_there_are_none(tmp_path):
    file = str(write(tmp_path / "a.txt", "a\nb\n"))
    for column in ("text", "body"):
        with pytest.raises(InputError, match="lines of text"):
            list(read_texts(file, column))
        with pytest.raises(InputError, match="lines of text"):
            check_texts([file], column, Reading())
    for columns in (Columns(text="body"), Columns(id="id"), Columns(keep=("text",)), Columns(template="{text}!")):
        with pytest.raises(InputError, match="lines of text"):
            read(file, columns)


def test_texts_are_counted_where_that_is_cheap(tmp_path):
    for name, data, count in (
        ("a.parquet", parquet_bytes(), 3),
        ("a.jsonl", LINES, 3),
        ("a.json", json.dumps(ROWS), None),
    ):
        assert count_texts(str(write(tmp_path / name, data))) == count


def test_a_format_that_does_not_exist():
    with pytest.raises(InputError, match="does not exist"):
        Reading("xml")


def test_files_are_closed_when_they_are_refused(tmp_path):
    (source,) = find_sources([str(write(tmp_path / "a.csv", "id,body\n"))])
    with pytest.raises(InputError), contextlib.closing(open_rows(source, Columns())):
        pass  # An unclosed file would be a warning, which is an error here.


@pytest.mark.parametrize(("suffix", "pack"), [(".bz2", bz2.compress), (".xz", lzma.compress)])
def test_what_follows_a_compressed_frame_is_a_frame_or_an_error(tmp_path, suffix, pack):
    first, second = pack(b"one\ntwo\n"), pack(b"three\n")
    (source,) = find_sources([str(write(tmp_path / f"good.txt{suffix}", first + second))])
    with contextlib.closing(open_rows(source, Columns())) as reader:
        assert [row.text for row in reader.read()] == ["one", "two", "three"]
    (source,) = find_sources([str(write(tmp_path / f"bad.txt{suffix}", first + b"X" + second[1:]))])
    with contextlib.closing(open_rows(source, Columns())) as reader, pytest.raises(InputError):
        list(reader.read())


PACKERS = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}


def in_store(name, data):
    """Write a file to a store and return its URL."""
    import fsspec

    fsspec.filesystem("memory").pipe(f"/formats/{name}", data)
    return f"memory://formats/{name}"


def hardly_packed(rows=3000):
    """Return rows that compress badly: their compressed size is well above the amount that is fetched first."""
    digits = (base64.b64encode(np.random.default_rng(row).bytes(80)).decode() for row in range(rows))
    return [{"text": f"{row} {text}"} for row, text in enumerate(digits)]


@pytest.mark.parametrize("suffix", PACKERS)
def test_large_packed_files_of_a_store_are_recognised(suffix):
    rows, pack = hardly_packed(), PACKERS[suffix]
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    packed = pack(lines.encode())
    assert len(packed) > 2 * HEAD
    with pytest.raises(InputError, match="looks like JSON"):
        find_sources([in_store(f"part-0.{suffix}", packed)])
    assert texts(read(in_store(f"a.jsonl.{suffix}", packed))) == [row["text"] for row in rows]
    (array,) = find_sources([in_store(f"a.jsonl.{suffix}", pack(json.dumps(rows).encode()))])
    assert array.format == "json"
    (wide,) = find_sources([in_store(f"a.txt.{suffix}", pack(lines.encode("utf-16")))], Reading("txt"))
    assert wide.encoding == "utf-16"
    for refused, what in ((archive("tar") + lines.encode(), "tar"), (pickle.dumps(lines), "pickle")):
        with pytest.raises(InputError, match=what):
            find_sources([in_store(f"a.txt.{suffix}", pack(refused))])


@pytest.mark.parametrize("suffix", ["gz", "zst", "xz"])
def test_of_a_damaged_packed_file_what_can_be_unpacked_says_what_it_is(tmp_path, suffix):
    packed = PACKERS[suffix]("\n".join(map(json.dumps, hardly_packed())).encode())
    with pytest.raises(InputError, match="looks like JSON"):
        find_sources([str(write(tmp_path / f"part-0.{suffix}", packed[: len(packed) * 7 // 8]))])


def test_no_more_of_a_file_in_a_store_is_fetched_than_says_what_it_is(monkeypatch):
    import fsspec

    memory, spans = fsspec.filesystem("memory"), []
    whole = type(memory).cat_file

    def noted(self, path, start=None, end=None):
        spans.append((start, end))
        return whole(self, path, start, end)

    monkeypatch.setattr("tsjax.jobs.input.sources._with_digests", tuple)
    monkeypatch.setattr(type(memory), "cat_file", noted)
    data = "\n".join(json.dumps(row) for row in hardly_packed(20_000)).encode()
    for name, content, most in (("a.jsonl", data, HEAD), ("a.jsonl.gz", gzip.compress(data), 2 * HEAD)):
        url = in_store(name, content)
        spans.clear()
        find_sources([url])
        assert spans[0] == (0, HEAD)
        assert sum(end - start for start, end in spans) <= most


def test_a_store_that_fails_within_a_packed_file_is_an_error(monkeypatch):
    import fsspec

    memory = fsspec.filesystem("memory")
    url = in_store("a.jsonl.bz2", bz2.compress("\n".join(map(json.dumps, hardly_packed())).encode()))
    whole = type(memory).cat_file

    def failing(self, path, start=None, end=None):
        if start:
            raise OSError("the store is gone")
        return whole(self, path, start, end)

    monkeypatch.setattr(type(memory), "cat_file", failing)
    with pytest.raises(InputError, match="the store is gone"):
        find_sources([url])
