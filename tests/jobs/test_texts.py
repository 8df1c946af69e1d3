import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest

from tsjax.errors import InputError, MissingExtraError
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.texts import check_texts, count_texts, read_texts


def write(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\n\nb\n", ["a", "", "", "b"]),
        (b"", []),
        (b"\n", [""]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),
        (b" a \n", [" a "]),
        (b"a\rb\n", ["a\rb"]),
    ],
)
def test_one_text_a_line(tmp_path, data, texts):
    file = write(tmp_path / "texts.txt", data)
    assert list(read_texts(file)) == texts
    assert count_texts(file) == len(texts)


def test_jsonl(tmp_path):
    file = write(tmp_path / "texts.jsonl", '{"text": "a\\nb", "id": 1}\n\n"plain"\n{"id": 2, "text": "é"}'.encode())
    assert list(read_texts(file)) == ["a\nb", "plain", "é"]
    file = write(tmp_path / "texts.ndjson", b'{"body": "a"}\n')
    assert list(read_texts(file, "body")) == ["a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"body": "a"}', "line 2: no 'text', only 'body'"),
        (b'{"text": 3}', "line 2: 'text' is 3, not text"),
        (b'{"text": null}', "line 2: 'text' is null"),
        (b'{"text": "\\ud800"}', "line 2: 'text' has a lone surrogate"),
        (b"[1]", r"line 2: \[1\] is not a JSON object"),
        (b'{"text": "a"', "line 2: not JSON"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"text": "\xff"}', r"line 2: not UTF-8 \(byte 10 is 0xff\)"),
    ],
)
def test_spoilt_jsonl(tmp_path, line, message):
    file = write(tmp_path / "texts.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    texts = read_texts(file)
    assert next(texts) == "fine"
    with pytest.raises(InputError, match=message):
        list(texts)


def test_csv_and_tsv(tmp_path):
    file = write(tmp_path / "texts.csv", b'id,text\r\n1,"a, ""b""\nc"\r\n\r\n2,d\r\n')
    assert list(read_texts(file)) == ['a, "b"\nc', "d"]
    file = write(tmp_path / "texts.tsv", b"id\tbody\n1\ta, b\n")
    assert list(read_texts(file, "body")) == ["a, b"]
    file = write(tmp_path / "large.csv", b'text\n"' + b"x" * 300_000 + b'"\n')
    assert [len(text) for text in read_texts(file)] == [300_000]
    assert list(read_texts(write(tmp_path / "empty.csv", b""))) == []


def test_spoilt_csv(tmp_path):
    with pytest.raises(InputError, match="no column 'text'; it has id, body"):
        list(read_texts(write(tmp_path / "a.csv", b"id,body\n1,a\n")))
    with pytest.raises(InputError, match="2 columns 'text'"):
        list(read_texts(write(tmp_path / "d.csv", b"text,text\na,b\n")))
    with pytest.raises(InputError, match="line 2: the row has 2 cells and the header 1"):
        list(read_texts(write(tmp_path / "e.csv", b"text\nhello, world\n")))
    with pytest.raises(InputError, match=r"line 2: .* never closed"):
        list(read_texts(write(tmp_path / "c.csv", b'id,text\n1,"a\n2,b\n')))
    with pytest.raises(InputError, match="line 3: the row has 1 cell and the header 2"):
        list(read_texts(write(tmp_path / "b.csv", b"id,text\n1,a\n2\n")))


def test_parquet(tmp_path):
    table = pa.table({"id": [1, 2], "text": ["a", "b"], "none": pa.array(["a", None])})
    pyarrow.parquet.write_table(table, tmp_path / "texts.parquet")
    file = str(tmp_path / "texts.parquet")
    assert list(read_texts(file)) == ["a", "b"]
    assert count_texts(file) == 2
    doubled = pa.table([["a"], [1], [2]], names=["text", "x", "x"])
    pyarrow.parquet.write_table(doubled, tmp_path / "doubled.parquet")
    assert count_texts(str(tmp_path / "doubled.parquet")) == 1
    with pytest.raises(InputError, match="no column 'body'; it has id, text, none"):
        list(read_texts(file, "body"))
    with pytest.raises(InputError, match="row 1: 'none' is null"):
        list(read_texts(file, "none"))
    with pytest.raises(InputError, match="row 0: 'id' is 1, not text"):
        list(read_texts(file, "id"))
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_texts(write(tmp_path / "no.parquet", b"nothing")))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tsjax\[batch\]'"):
        list(read_texts(write(tmp_path / "a.parquet", b"PAR1")))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\nb\n")))
    assert count_texts("-") is None
    assert list(read_texts("-")) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "a"}\n')))
    assert list(read_texts("-", reading=Reading("jsonl"))) == ["a"]


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "texts")
    file = str(tmp_path / "texts")
    with ThreadPoolExecutor() as pool:
        check_texts([file], None, Reading())
        assert count_texts(file) is None
        writer = pool.submit((tmp_path / "texts").write_bytes, b"a\nb\n")
        assert list(read_texts(file)) == ["a", "b"]
        assert writer.result() == 4


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="there is no file .*missing.txt"):
        list(read_texts(str(tmp_path / "missing.txt")))
    with pytest.raises(InputError, match="Is a directory"):
        list(read_texts(str(tmp_path)))
