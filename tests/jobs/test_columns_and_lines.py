"""Missing column names, columns of paths, values as text, and lines that belong to no row."""

import contextlib
import datetime
import decimal
import json
import time

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from tests.support import batch_jobs
from tests.support.reading_files import read, texts, write
from tsjax.errors import InputError
from tsjax.jobs.input.columns import Columns, Rejection, Row
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.rows import check_columns, open_rows
from tsjax.jobs.input.sources import find_sources
from tsjax.jobs.input.texts import check_texts, count_texts
from tsjax.jobs.inspect.audit import LineAudit
from tsjax.jobs.inspect.verdict import Verdict


def write_rows(path, rows):
    """Write the same rows in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows, default=str))
        case ".parquet":
            pa.parquet.write_table(pa.Table.from_pylist(rows), path)
        case ".feather":
            pa.feather.write_feather(pa.Table.from_pylist(rows), str(path))
        case ".csv" | ".tsv" as suffix:
            delimiter = "," if suffix == ".csv" else "\t"
            lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
            path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return path


FORMATS = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.feather")
ROWS = [{"key": i, "body": f"text {i}", "year": 2000 + i} for i in range(20)]
MISTYPED = [
    Columns(text="bdoy"),
    Columns(template="{bdoy}"),
    Columns(template="{body} {yaer}"),
    Columns(text="body", id="kye"),
    Columns(text="body", keep=("yaer",)),
]


@pytest.mark.parametrize("name", FORMATS)
def test_a_mistyped_column_is_found_at_the_first_look(tmp_path, name):
    file = write_rows(tmp_path / name, ROWS)
    sources = find_sources([str(file)])
    check_columns(sources, Columns(text="body", id="key", keep=("year",)))
    for columns in MISTYPED:
        with pytest.raises(InputError, match="'body'|body, year"):
            check_columns(sources, columns)
    check_texts([str(file)], "body", Reading())
    with pytest.raises(InputError):
        check_texts([str(file)], "bdoy", Reading())


def test_a_column_that_few_rows_have_is_no_mistake(tmp_path):
    rows = [{"text": "a"}] * 5000
    file = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, [*rows, {"text": "b", "title": "t"}])))
    later = write(tmp_path / "b.jsonl", '{"text": "c", "note": 1}\n')
    sources = find_sources([str(file), str(later)])
    check_columns(sources, Columns(template="{title} {text}", keep=("note",)))
    with pytest.raises(InputError, match="'ttile'"):
        check_columns(sources, Columns(template="{ttile} {text}"))
    check_columns(find_sources([str(write(tmp_path / "c.jsonl", "no json\n"))]), Columns())  # no row contradicts it


def test_a_second_file_without_the_column_is_found_too(tmp_path):
    files = [str(write_rows(tmp_path / f"{name}.csv", [{"text": "a", name: "b"}])) for name in "xy"]
    with pytest.raises(InputError, match=r"y\.csv has no column 'x'"):
        check_columns(find_sources(files), Columns(keep=("x",)))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("options", [("--text-column", "bdoy"), ("--text-column", "body", "--keep", "yaer")])
def test_a_mistyped_column_occupies_no_output(tmp_path, capsys, name, options):
    output = tmp_path / "out"
    command = ("batch", "--input", write_rows(tmp_path / name, ROWS), "--output", output, "--model", tmp_path / "none")
    assert batch_jobs.run(*command, *options) == 2
    assert not output.exists()
    assert "it has" in (error := capsys.readouterr().err) or "only" in error
    vectors, report = tmp_path / "vectors.npy", tmp_path / "report"
    file = tmp_path / name
    for other in (("embed", file, "-o", vectors), ("collapse", "--texts", file, "-o", report)):
        assert batch_jobs.run(*other, "--column", "bdoy", "--model", tmp_path / "none") == 2
        assert "bdoy" in capsys.readouterr().err
    assert not vectors.exists()
    assert not report.exists()


@pytest.mark.slow
def test_the_corrected_command_runs_on_the_same_output(model, tmp_path):
    file, output = write_rows(tmp_path / "a.jsonl", ROWS), tmp_path / "out"
    command = batch_jobs.arguments(model, [file], output, "--text-column", "body", "--id-column")
    assert batch_jobs.run(*command, "kye") == 2
    assert batch_jobs.run(*command, "key") == 0
    assert batch_jobs.run("batch", "verify", output) == 0


@pytest.mark.parametrize("name", [*FORMATS, "a.jsonl.gz"])
def test_columns_of_the_path(tmp_path, name):
    columns = Columns(template="{lang}|{day}|{text}", id="day", keep=("lang", "none"))
    folder = tmp_path / "lang=e%3Dn%2F" / "day=2024-01-31" / "none=__HIVE_DEFAULT_PARTITION__"
    write_rows(folder / name.removesuffix(".gz"), [{"text": "a"}, {"text": "b"}])
    if name.endswith(".gz"):
        import gzip

        write(folder / name, gzip.compress((folder / "a.jsonl").read_bytes()))
    (source,) = find_sources([str(folder / name)], columns=columns.needed)
    check_columns([source], columns)
    rows = read(folder / name, columns)
    assert [row[2:5] for row in rows] == [("2024-01-31", f"e=n/|2024-01-31|{t}", ("e=n/", None)) for t in "ab"]
    assert read(folder / name, columns, 1) == rows[1:]
    assert source.identity()["partitions"] == {"lang": "e=n/", "day": "2024-01-31", "none": None}
    assert "partitions" not in find_sources([str(folder / name)])[0].identity()


def test_lines_of_text_in_folders_of_columns(tmp_path):
    file = write(tmp_path / "lang=fr" / "a.txt", "un\ndeux\n")
    assert texts(read(file, Columns(template="{lang}: {text}"))) == ["fr: un", "fr: deux"]
    assert [row.kept for row in read(file, Columns(keep=("lang",)))] == [("fr",), ("fr",)]


def test_a_path_that_contradicts_its_file_or_itself(tmp_path):
    columns = Columns(keep=("lang",))
    rows = [{"text": "a", "lang": "en"}, {"text": "b", "lang": "fr"}, {"text": "c", "lang": None}]
    for name in ("a.jsonl", "a.parquet"):
        found = read(write_rows(tmp_path / "lang=en" / name, rows), columns)
        assert [row.kept if isinstance(row, Row) else row.row for row in found] == [("en",), 1, ("en",)]
    with pytest.raises(InputError, match="two values"):
        find_sources([str(write(tmp_path / "lang=en" / "lang=fr" / "a.txt", "a\n"))], columns=("lang",))


def test_a_job_over_folders_of_columns(model, tmp_path):
    for lang, year in (("en", 2023), ("fr", 2024)):
        write_rows(tmp_path / "in" / f"lang={lang}" / f"year={year}" / "a.parquet", [{"text": "the"}, {"text": "of"}])
    output = tmp_path / "out"
    command = batch_jobs.arguments(model, [tmp_path / "in" / "**" / "*.parquet"], output, "--keep", "lang", "year")
    assert batch_jobs.run(*command, "--template", "{lang}: {text}") == 0
    kept = pa.parquet.read_table(output / "vectors").select(["lang", "year"]).to_pylist()
    assert kept == [{"lang": "en", "year": "2023"}] * 2 + [{"lang": "fr", "year": "2024"}] * 2
    assert batch_jobs.run("batch", "verify", output) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (-(2**60), str(-(2**60))),
        (True, "true"),
        (False, "false"),
        (0.5, "0.5"),
        (2.0, "2.0"),
        (datetime.date(2024, 1, 31), "2024-01-31"),
        (datetime.datetime(2024, 1, 31, 12, 30), "2024-01-31T12:30:00"),
        (datetime.time(12, 30), "12:30:00"),
        (decimal.Decimal("1.50"), "1.50"),
        ("plain", "plain"),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_a_value_is_the_same_text_in_every_format(tmp_path, name, value, text):
    typed = name.endswith((".parquet", ".feather")) or (name.startswith("a.json") and isinstance(value, int | float))
    file = write_rows(tmp_path / name, [{"v": value if typed else text}])
    assert [row[2:4] for row in read(file, Columns(template="<{v}>", id="v"))] == [(text, f"<{text}>")]


@pytest.mark.parametrize("value", [[1], {"x": 1}, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.feather"])
def test_what_no_template_takes(tmp_path, name, value):
    file = write_rows(tmp_path / name, [{"v": value, "text": "a"}])
    for columns in (Columns(template="<{v}>"), Columns(id="v")):
        (row,) = read(file, columns)
        assert isinstance(row, Rejection)
        assert "'v' is" in row.reason


def test_a_number_of_half_the_bits_is_what_was_written(tmp_path):
    content = pa.table({"v": pa.array([0.1, None, 1e20], pa.float32()), "text": ["a", "b", "c"]})
    pa.parquet.write_table(content, tmp_path / "a.parquet")
    assert texts(read(tmp_path / "a.parquet", Columns(template="{v} {text}"))) == ["0.1 a", " b", "1e+20 c"]


def test_verify_says_which_lines_no_row_has(model, tmp_path, capsys, monkeypatch):
    from tsjax.jobs.input.delimited import Delimited

    lines = [f'{i},"a text of\nlines {i}"' if i % 5 == 0 else f"{i},text {i}" for i in range(30)]
    file, output = write(tmp_path / "a.csv", "id,text\n\n" + "\n".join(lines) + "\n\n"), tmp_path / "out"
    whole = Delimited.records

    def losing(self):
        """Simulate a faulty parser that loses the lines of four records without noticing."""
        for record in whole(self):
            if self.header and record[0] in ("7", "8", "9", "20"):
                continue
            yield record

    monkeypatch.setattr(Delimited, "records", losing)
    command = batch_jobs.arguments(model, [file], output, "--id-column", "id", "--csv-quote", '"')
    assert batch_jobs.run(*command) == 0
    capsys.readouterr()
    assert batch_jobs.run("batch", "verify", output) != 0
    said = capsys.readouterr().out
    assert "lines 12 to 14 of a.csv are in no row" in said
    assert "lines 27 to 28 of a.csv are in no row" in said
    assert said.count("in no row") == 2
    monkeypatch.setattr(Delimited, "records", whole)
    assert batch_jobs.run(*batch_jobs.arguments(model, [file], tmp_path / "good", "--id-column", "id")) == 0
    assert batch_jobs.run("batch", "verify", tmp_path / "good") == 0


def test_a_reader_that_loses_lines_says_so(tmp_path, monkeypatch):
    """The content of the cells is compared with the lines that were read."""
    from tsjax.jobs.input import delimited

    whole = delimited._Quoted.parse

    def losing(self, record):
        cells = whole(self, record)
        return [cell.partition("\n")[0] for cell in cells] if isinstance(cells, list) else cells

    monkeypatch.setattr(delimited._Quoted, "parse", losing)
    with pytest.raises(InputError, match="2 in no row"):
        read(write(tmp_path / "a.csv", 'id,text\n1,"a\nb\nc"\n2,c\n'))


def test_other_commands_read_the_same_formats(tmp_path):
    from tsjax.lab.evaluation import read_classification, read_sts
    from tsjax.lab.learning.corpora import read_corpus

    pairs = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "score": i} for i in range(4)]
    labelled = [{"text": f"text {i}", "label": i % 2} for i in range(8)]
    learned = [{"query": f"q {i}", "positive": f"p {i}", "negative": f"n {i}"} for i in range(4)]
    for name in FORMATS:
        assert read_sts(write_rows(tmp_path / "sts" / name, pairs)).scores == (0, 1, 2, 3)
        assert read_classification(write_rows(tmp_path / "labels" / name, labelled)).labels == tuple("01" * 4)
        corpus = read_corpus(write_rows(tmp_path / "pairs" / name, learned))
        assert (corpus.name, corpus.task.items, len(corpus.negatives)) == ("a", 4, 4)
    spark = write(tmp_path / "spark.csv", "text,label\n" + "".join(f'"say \\"{i}\\"",{i % 2}\n' for i in range(8)))
    assert read_classification(spark, reading=Reading(escape="\\")).documents[1] == 'say "1"'
    for bad in ("text,label\na\n", 'text,label\na,0\n"b,1\n'):
        with pytest.raises(InputError, match=r"bad\.csv, line \d"):
            read_classification(write(tmp_path / "bad.csv", bad))
    with pytest.raises(InputError):
        read_corpus(write(tmp_path / "a.txt", "no columns\n"))


def audited(path, columns=None, **reading):
    """Return the problems that an audit of lines finds in a file, and the rows that it saw."""
    columns = columns or Columns()
    (source,) = find_sources([str(path)], Reading(**reading), columns=columns.needed)
    verdict = Verdict(str(path))
    audit = LineAudit([source], verdict)
    with contextlib.closing(audit), contextlib.closing(open_rows(source, columns)) as reader:
        for row in (rows := list(reader.read())):
            audit.see(row)
        audit.finish()
    return verdict.problems, rows


@pytest.mark.parametrize(
    ("name", "data", "columns"),
    [
        ("a.csv", b'id,text\n1,"caf\xe9\nx"\n2,b\n', Columns()),
        ("a.csv", b'id,text\n"1\n\n\xff",a\n2,b\n', Columns(id="id")),
        ("lang=en/a.csv", b'lang,text\n"e\nn",a\nen,b\n', Columns(keep=("lang",))),
        ("a.tsv", b"id\ttext\nx\\\ny\t\\N\n2\tb\n", Columns()),
    ],
    ids=["text", "id", "path", "null"],
)
def test_a_rejected_row_of_several_lines_has_them_all(tmp_path, name, data, columns):
    options = {"escape": "\\"} if name.endswith("tsv") else {}
    problems, rows = audited(write(tmp_path / name, data), columns, **options)
    assert [type(row) for row in rows] == [Rejection, Row]
    assert (rows[0].line, rows[0].lines) == (2, data.count(b"\n") - 2)
    assert problems == []


def test_a_row_that_was_broken_up_has_one_line(tmp_path):
    problems, rows = audited(write(tmp_path / "a.csv", 'id,text\n1,"a\n2,b\n3,c\n4,d\n'), Columns())
    assert (rows[0].line, rows[0].lines) == (2, 1)
    assert texts(rows) == ["b", "c", "d"]
    assert problems == []


def test_rejected_rows_of_several_lines_are_sound(model, tmp_path):
    file, output = write(tmp_path / "a.csv", b'id,text\n1,"caf\xe9\nx"\n2,b\n'), tmp_path / "out"
    assert batch_jobs.run(*batch_jobs.arguments(model, [file], output, "--id-column", "id")) in (0, 1)
    assert batch_jobs.run("batch", "verify", output) == 0
    (listed,) = map(json.loads, (output / "rejected.jsonl").read_text().splitlines())
    assert set(listed) == {"file", "row", "line", "reason"}


def test_a_list_where_the_path_has_text_is_rejected(tmp_path):
    file = write(tmp_path / "lang=en" / "x.jsonl", '{"text":"a","lang":["en"]}\n{"text":"b"}\n')
    rows = read(file, Columns(keep=("lang",)))
    assert texts(rows) == ["b"]
    assert "'lang' is ['en']" in rows[0].reason
    with pytest.raises(InputError, match="line 1: 'lang' is"):
        (source,) = find_sources([str(file)], columns=["lang"])
        with contextlib.closing(open_rows(source, Columns(template="{lang} {text}"))) as reader:
            list(reader.texts())


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_null_in_a_column_that_the_path_has_not_is_null(tmp_path, name):
    rows = [{"text": "a", "title": None}, {"text": None, "title": None}]
    columns = Columns(keep=("lang", "title"))
    if name.endswith(".parquet"):
        content = pa.table({"text": ["a", None], "title": pa.array([None, None], pa.string())})
        (tmp_path / "lang=en").mkdir()
        pa.parquet.write_table(content, tmp_path / "lang=en" / name)
        file = tmp_path / "lang=en" / name
    else:
        file = write_rows(tmp_path / "lang=en" / name, rows)
    check_columns(find_sources([str(file)], columns=columns.needed), columns)
    first, second = read(file, columns)
    assert first.kept == ("en", None)
    assert second.reason == "'text' is null"


@pytest.mark.parametrize("blank", ["\v", "\f", " \t", "\r", "\v\f "])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_blank_line_is_the_same_to_reader_and_audit(tmp_path, name, blank):
    first = ['{"text": "a"}'] if name == "a.jsonl" else ["id,text", "1,a"]
    problems, rows = audited(write(tmp_path / name, "\n".join([*first, blank, ""])))
    assert texts(rows) == ["a"]
    assert len(rows) == (1 if name == "a.jsonl" or blank == "\r" else 2)
    assert problems == []


@pytest.mark.parametrize(("name", "line"), [("a.csv", b" \n"), ("a.csv", b"\v\n"), ("a.jsonl", b"\xbb\n")])
def test_a_lost_line_that_the_reader_would_not_pass_over_is_missed(tmp_path, name, line):
    head = b"id,text\n1,a\n" if name == "a.csv" else b'{"text": "a"}\n'
    (source,) = find_sources([str(write(tmp_path / name, head + line))])
    verdict = Verdict(name)
    with contextlib.closing(LineAudit([source], verdict)) as audit:
        audit.see(Row(name, 0, "1", "a", (), head.count(b"\n")))
        audit.finish()
    assert verdict.problems == [f"line {head.count(bytes([10])) + 1} of {name} is in no row"]


def test_a_header_of_white_space_is_the_header(tmp_path):
    problems, rows = audited(write(tmp_path / "a.csv", "\ufeff\n ,text\n\n1,a\n"), Columns())
    assert texts(rows) == ["a"]
    assert problems == []
    problems, rows = audited(write(tmp_path / "a.csv", "\n  \na\n"), Columns(text="  "))
    assert texts(rows) == ["a"]
    assert problems == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_nothing_after_a_byte_order_mark_is_no_row(tmp_path, name, mark):
    file = write(tmp_path / name, mark)
    assert audited(file) == ([], [])
    assert count_texts(str(file)) in (0, None)
    assert texts(read(write(tmp_path / "a.txt", b"\xef\xbb\xbf\n"))) == [""]


def test_a_row_of_another_file_is_an_error(tmp_path):
    (source,) = find_sources([str(write(tmp_path / "a.txt", "a\n"))])
    with (
        contextlib.closing(LineAudit([source], Verdict("x"))) as audit,
        pytest.raises(ValueError, match=r"b\.txt"),
    ):
        audit.see(Row("b.txt", 0, "b", "b", (), 1))


def test_a_look_that_was_cut_short_says_so(tmp_path, monkeypatch):
    file = write_rows(tmp_path / "a.jsonl", [{"text": "a" * 1000}] * 50)
    (source,) = find_sources([str(file)])
    with pytest.raises(InputError, match=r"only 'text'$"):
        check_columns([source], Columns(keep=("title",)))
    monkeypatch.setattr("tsjax.jobs.input.rows._LOOK_BYTES", 1000)
    with pytest.raises(InputError, match=r"1 row looked at"):
        check_columns([source], Columns(keep=("title",)))
    monkeypatch.setattr("tsjax.jobs.input.rows._LOOK_BYTES", 1 << 28)
    monkeypatch.setattr("tsjax.jobs.input.rows._LOOK_ROWS", 7)
    with pytest.raises(InputError, match=r"7 rows looked at"):
        check_columns([source], Columns(keep=("title",)))


def test_files_of_a_store_are_closed_when_another_is_refused(monkeypatch):
    import fsspec

    from tsjax.jobs.input import rows

    memory, opened = fsspec.filesystem("memory"), []
    for number in range(5):
        memory.pipe(f"/closing/{number}.csv", b"id,text\n" if number else b"id,body\n")

    def noted(source, columns):
        if source.name == "0.csv":
            time.sleep(0.3)  # so that the other files are open when it is refused
        opened.append(open_rows(source, columns))
        return opened[-1]

    sources = find_sources(["memory://closing/*.csv"])
    closed = []

    def close(self):
        closed.append(self)

    monkeypatch.setattr(rows.CellReader, "close", close)
    monkeypatch.setattr(rows, "open_rows", noted)
    with pytest.raises(InputError, match="no column 'text'"):
        check_columns(sources, Columns())
    assert len(opened) == 4
    assert {id(reader) for reader in closed} == {id(reader) for reader in opened}


def test_a_header_that_cannot_be_read_is_where_it_is(tmp_path):
    with pytest.raises(InputError, match="a.csv, line 3: .*never closed"):
        read(write(tmp_path / "a.csv", '\n\nid,"text\n1,a\n'))
