"""Delimited text with any quotation marks, of which no row is lost silently."""

import csv
import io
import random

import pytest

from tests.support.reading_files import read, rejected_lines, texts, write
from tsjax.errors import InputError
from tsjax.jobs.input import delimited
from tsjax.jobs.input.columns import Columns, Rejection, Row
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.rows import header_of
from tsjax.jobs.input.sources import find_sources

BY_ID = Columns(id="id")


def numbered(changes, rows=40, delimiter=","):
    """Return a file with an id and a text in each row, some of them changed."""
    lines = [f"{100 + i}{delimiter}this is text {i}" for i in range(rows)]
    for place, line in changes.items():
        lines[place] = line
    return f"id{delimiter}text\n" + "\n".join(lines) + "\n"


def test_tsv_has_no_quotes_unless_the_user_says_so(tmp_path):
    file = write(tmp_path / "a.tsv", 'id\ttext\n1\t"one\n2\ttwo"\n3\t"a ""b"""\n')
    assert texts(read(file, BY_ID)) == ['"one', 'two"', '"a ""b"""']
    quoted = write(tmp_path / "b.tsv", 'id\ttext\n1\t"a\tb"\n2\t"c\nd"\n')
    assert texts(read(quoted, BY_ID, quote='"')) == ["a\tb", "c\nd"]
    assert rejected_lines(read(quoted, BY_ID)) == [2, 4]


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({7: '107,"an open mark'}, [9]),  # The quotation mark is never closed.
        ({7: '107,"an open mark', 20: '120,"a quoted, text"'}, [9]),
        ({7: '107,"an open mark', 20: '120,he said "yes" twice'}, [9]),
        # This file is well formed, but its lines look like rows.
        ({7: '107,"an open mark', 20: '120,a pipe of 5"'}, [9]),
        ({7: '107,"an open mark', 12: '112,""', 20: '120,"last"'}, [9]),
        ({7: '107,"one', 8: '108,"two', 9: '109,"three'}, [9, 10, 11]),
        ({39: '139,"in the last line'}, [41]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_open_mark_costs_its_own_row(tmp_path, changes, lost, end):
    file = write(tmp_path / "a.csv", numbered(changes).replace("\n", end))
    rows = read(file, BY_ID)
    assert rejected_lines(rows) == lost
    assert len(rows) == 40
    assert {row.id for row in rows if isinstance(row, Row)} == {str(100 + i) for i in range(40)} - {
        str(98 + line) for line in lost
    }
    for skip in range(41):
        assert read(file, BY_ID, skip) == rows[skip:]


def test_texts_of_several_lines_stay_whole(tmp_path):
    inner = ["first\nsecond, third\n\nlast", "1, milk\n2, eggs\n3, bread", 'he said ""yes""\nand, no']
    changes = {7 + i: f'{107 + i},"{text}"' for i, text in enumerate(inner)}
    rows = read(write(tmp_path / "a.csv", numbered(changes)), BY_ID)
    assert rejected_lines(rows) == []
    assert texts(rows)[7:10] == [text.replace('""', '"') for text in inner]


def test_lines_that_look_like_rows_are_one_text_if_the_user_says_so(tmp_path):
    file = write(tmp_path / "a.csv", numbered({7: '107,"a table\n108,x\n109,y"'}))
    assert rejected_lines(read(file, BY_ID)) == [9]
    assert texts(read(file, BY_ID, quote='"'))[7] == "a table\n108,x\n109,y"


def test_a_broken_text_of_several_lines_does_not_become_rows(tmp_path):
    file = write(tmp_path / "a.csv", numbered({7: '107,"Dear all,\nthis is, so\nyours, truly" Bob'}))
    rows = read(file, BY_ID)
    assert rejected_lines(rows) == [9, 10, 11]
    assert len(texts(rows)) == 39


def test_a_file_in_which_every_mark_is_open_takes_time_in_proportion(tmp_path):
    lines = 20_000
    file = write(tmp_path / "a.csv", "id,text\n" + "".join(f'{i},"open\n' for i in range(lines)))
    assert rejected_lines(read(file, BY_ID)) == list(range(2, lines + 2))


def test_a_mark_that_is_open_for_too_long_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MOST_RECORD", 200)
    file = write(tmp_path / "a.csv", numbered({7: '107,"open', 39: '139,"x"', 20: '120,closed"'}))
    rows = read(file, BY_ID, quote='"')
    assert rejected_lines(rows) == [9]
    assert len(texts(rows)) == 39


def test_escapes_as_spark_writes_them(tmp_path):
    data = (
        'id,text\n1,"he said \\"hi\\", twice"\n2,C:\\new\n3,"a \\\\ b, c"\n4,"two\nlines \\"x\\""\n5,""\n6,"a ""b"""\n'
        '7,"open \\"\n8,last\n'
    )
    file = write(tmp_path / "a.csv", data)
    rows = read(file, BY_ID, escape="\\")
    assert texts(rows) == [
        'he said "hi", twice', "C:\\new", "a \\ b, c", 'two\nlines "x"', "", 'a "b"', "last",
    ]  # fmt: skip
    assert rejected_lines(rows) == [9]
    for skip in range(len(rows) + 1):
        assert read(file, BY_ID, skip, escape="\\") == rows[skip:]
    assert 2 in rejected_lines(read(file, BY_ID))  # and never silently as another text


def test_escapes_as_hive_writes_them(tmp_path):
    data = 'id\x01text\n1\x01a\\\x01b\\\\\n2\x01two\\\nlines\n3\x01\\N\n4\x01x\\ny\\tz\n5\x01plain "text\n'
    rows = read(write(tmp_path / "a.csv", data), BY_ID, delimiter="\x01", quote="none", escape="\\")
    assert texts(rows) == ["a\x01b\\", "two\nlines", "x\ny\tz", 'plain "text']
    assert rejected_lines(rows) == [5]
    assert [row.lines for row in rows if isinstance(row, Row)] == [1, 2, 1, 1]


def test_what_else_could_lose_a_row(tmp_path):
    data = (
        b"\xef\xbb\xbfid,text\n1,a\x00b\n2,c\rd\n3\n4,e,f\n\n5,\xe2\x80\xa8g\x85h\n6,\xff\n7,"
        + b"x" * 300_000
        + b"\n8,last"
    )
    rows = read(write(tmp_path / "a.csv", data), BY_ID)
    assert rejected_lines(rows) == [3, 4, 5, 7, 8]  # 0x85 alone is not valid UTF-8
    assert texts(rows)[0] == "a\x00b"
    assert texts(rows)[-1] == "last"
    assert read(write(tmp_path / "header.csv", "id,text\n"), BY_ID) == []
    assert texts(read(write(tmp_path / "one.csv", 'text\na\n\n"b\nc"\n'))) == ["a", "", "b\nc"]
    for name, content in (
        ("twice.csv", "text,text\na,b\n"),
        ("cr.csv", "id,text\r1,a\r2,b\r"),
        ("open.csv", 'id,"text\n1,a\n'),
    ):
        with pytest.raises(InputError):
            read(write(tmp_path / name, content))


def test_every_line_is_in_a_row_or_rejected(tmp_path):
    rng = random.Random(14)
    parts = ['"', ",", "\n", "a", "1", '""', "\n1,", "\\", '",', '"\n', "\r\n", "\x00"]
    dialects = ({}, {"escape": "\\"}, {"escape": "\\", "quote": "none"}, {"quote": '"'}, {"quote": "none"})
    for number in range(400):
        data = "text,id\n" + "".join(rng.choice(parts) for _ in range(rng.randint(0, 40)))
        file = write(tmp_path / "a.csv", data)
        lines = data.removesuffix("\n").split("\n")
        dialect = dialects[number % len(dialects)]
        rows = read(file, **dialect)
        covered = [n for row in rows for n in range(row.line, row.line + (row.lines if isinstance(row, Row) else 1))]
        blank = {n for n, line in enumerate(lines, start=1) if line in ("", "\r")}
        assert len(set(covered)) == len(covered), data
        assert set(covered) | blank | {1} == set(range(1, len(lines) + 1)), data
        skip = rng.randint(0, len(rows))
        assert read(file, None, skip, **dialect) == rows[skip:], data


def test_what_the_standard_library_writes_is_read(tmp_path):
    rng = random.Random(22)
    for _ in range(200):
        width = rng.choice([1, 2, 3])
        table = [
            ["".join(rng.choice('ab",\n\r1 é') for _ in range(rng.randint(0, 8))) for _ in range(width)]
            for _ in range(6)
        ]
        header = [*(f"c{place}" for place in range(width - 1)), "text"]
        text = io.StringIO()
        csv.writer(text, lineterminator=rng.choice(["\n", "\r\n"]), quoting=csv.QUOTE_ALL).writerows([header, *table])
        rows = read(write(tmp_path / "a.csv", text.getvalue()), Columns(keep=tuple(header[:-1])), quote='"')
        assert [[*row.kept, row.text] for row in rows] == table


def test_the_dialect_is_part_of_an_inputs_identity(tmp_path):
    file = str(write(tmp_path / "a.csv", "id,text\n1,a\n"))
    readings = [Reading(), Reading(escape="\\"), Reading(quote="none"), Reading(quote='"'), Reading(delimiter=";")]
    identities = [find_sources([file], reading)[0].identity() for reading in readings]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    for identity in identities:
        assert find_sources([file], {"a.csv": Reading.recorded(identity)})[0].identity() == identity
    with pytest.raises(InputError, match="delimited"):
        find_sources([str(write(tmp_path / "a.txt", "a\n"))], Reading(escape="\\"))


@pytest.mark.parametrize(
    "wrong",
    [{"delimiter": ""}, {"quote": "ab"}, {"escape": "x"}, {"delimiter": "\n"}, {"quote": ",", "delimiter": ","}],
)
def test_a_dialect_that_is_none(wrong):
    with pytest.raises(InputError):
        Reading(**wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("a.csv", {"escape": '"'}, "doubled within quotes need no option"),
        ("a.csv", {"delimiter": '"'}, "delimiter and quote .*CSV"),
        ("a.csv", {"escape": ","}, "delimiter and escape .*CSV"),
        ("a.csv", {"quote": ","}, "delimiter and quote .*CSV"),
        ("a.tsv", {"escape": "\t"}, "delimiter and escape .*TSV"),
        ("a.tsv", {"quote": "\t"}, "delimiter and quote .*TSV"),
        ("a.tsv", {"quote": '"', "escape": '"'}, "doubled within quotes need no option"),
    ],
)
def test_a_mark_that_is_another_by_default_is_refused(tmp_path, name, wrong, said):
    file = write(tmp_path / name, "id,text\n1,a\n")
    with pytest.raises(InputError, match=said):
        find_sources([str(file)], Reading(**wrong))


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("a.csv", {"escape": '"', "quote": "none"}),
        ("a.csv", {"escape": '"', "quote": "'"}),
        ("a.csv", {"escape": ",", "delimiter": ";"}),
        ("a.csv", {"delimiter": '"', "quote": "none"}),
        ("a.tsv", {"escape": '"'}),
        ("a.tsv", {"delimiter": '"'}),
    ],
)
def test_a_mark_that_is_another_in_another_format_only_is_taken(tmp_path, name, right):
    delimiter = right.get("delimiter", "," if name == "a.csv" else "\t")
    assert texts(read(write(tmp_path / name, f"id{delimiter}text\n1{delimiter}a\n"), BY_ID, **right)) == ["a"]


def test_rejections_say_how_the_file_may_be_meant(tmp_path):
    spark = read(write(tmp_path / "a.csv", 'id,text\n1,"say \\"hi\\""\n'), BY_ID)
    pandas = read(write(tmp_path / "a.tsv", 'id\ttext\n1\t"two\nlines"\n'), BY_ID)
    assert isinstance(spark[0], Rejection)
    assert "--csv-escape" in spark[0].reason
    assert "--csv-quote" in pandas[1].reason


def test_a_header_may_repeat_names_that_are_not_used(tmp_path):
    (source,) = find_sources([str(write(tmp_path / "a.csv", "id,text,,\n1,a,,\n"))])
    assert header_of(source) == ["id", "text", "", ""]


@pytest.mark.parametrize("label", ["positive", "3"])
def test_a_cell_of_two_lines_before_a_label_is_no_stray_mark(tmp_path, label):
    """Its last line is a text and the label, as a row would be, but its first line is not a row."""
    usual = "".join(f"review {i},{label if i % 2 else label[::-1]}\n" for i in range(60))
    text = f'review,label\n{usual}"first line\nsecond line",{label}\n' + usual
    rows = read(write(tmp_path / "a.csv", text), Columns(text="review"))
    assert [text for text in texts(rows) if "line" in text] == ["first line\nsecond line"]
    assert len(rows) == 121
    assert not rejected_lines(rows)


@pytest.mark.parametrize("later", ['108,"of ""forests"": a text"', "108,plain"])
def test_the_escape_is_suggested_only_where_a_likely_one_stands_before_a_mark(tmp_path, later):
    rows = read(write(tmp_path / "a.csv", numbered({7: '107,"an open mark', 8: later})), BY_ID)
    assert rejected_lines(rows) == [9]
    assert "line 9" in rows[7].reason
    assert "--csv-escape" not in rows[7].reason
    for mark in "\\^":
        escaped = read(write(tmp_path / "b.csv", f'id,text\n1,"one\nsay {mark}"hi{mark}""\n2,a\n'), BY_ID)
        assert f"--csv-escape '{mark}'" in escaped[0].reason
    single = read(write(tmp_path / "c.csv", 'id,text\n1,"say "hi""\n'), BY_ID)
    assert "--csv-escape" not in single[0].reason
