"""Texts from files, one at a time: lines, JSONL, CSV, Parquet, or standard input."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, get_args

from tsjax.errors import InputError, MissingExtraError
from tsjax.text.unicode import lone_surrogate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

InputFormat: TypeAlias = Literal["txt", "jsonl", "csv", "tsv", "parquet"]

STDIN = "-"
DEFAULT_COLUMN = "text"

_BY_SUFFIX: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}

# A cell of a CSV file may hold a whole document; Python's own limit is 131,072 characters.
LARGEST_CELL = 1 << 30


def read_texts(file: str, column: str = DEFAULT_COLUMN, input_format: InputFormat | None = None) -> Iterator[str]:
    """The texts in a file, in order, read as they are asked for.

    Args:
        file: a path, or ``-`` for standard input.
        column: the key, header or column that holds the text, where the format has such.
        input_format: None goes by the suffix: .jsonl, .ndjson, .csv, .tsv, .parquet, and lines of text for any other.
            One text a line keeps empty lines, so that the nth vector is the nth line's.

    Raises:
        InputError: the file cannot be read, or something in it is not text; names file and line.
        MissingExtraError: Parquet without pyarrow.
    """
    chosen = input_format or format_of(file)
    if chosen == "parquet":
        yield from _parquet(file, column)
        return
    with open_binary(file) as stream:
        yield from _READERS[chosen](stream, file, column)


def format_of(file: str) -> InputFormat:
    """The format that a file's suffix tells: lines of text where it tells none."""
    return _BY_SUFFIX.get(Path(file).suffix.lower(), "txt")


def check_readable(file: str) -> None:
    """Raise an InputError if a file cannot be opened, before any work is done."""
    if file == STDIN:
        if sys.stdin is None:
            raise InputError("standard input is closed")
    elif not _is_pipe(file):
        open_binary(file).close()


def count_texts(file: str, input_format: InputFormat | None = None) -> int | None:
    """How many texts a file holds, for a progress bar; None where that cannot be known cheaply."""
    chosen = input_format or format_of(file)
    if file == STDIN or chosen in ("csv", "tsv") or _is_pipe(file):
        return None
    if chosen == "parquet":
        return int(_parquet_file(file).metadata.num_rows)
    lines, last = 0, b""
    with open_binary(file) as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
            last = block
    return lines + (bool(last) and not last.endswith(b"\n"))


def _is_pipe(file: str) -> bool:
    """Whether reading a file once uses it up."""
    path = Path(file)
    return path.exists() and not path.is_file() and not path.is_dir()


def open_binary(file: str) -> BinaryIO:
    """A file, or standard input for ``-``; an InputError says why it cannot be read."""
    if file == STDIN:
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def decoded_lines(stream: BinaryIO, file: str) -> Iterator[str]:
    """Decoded lines without their ends. Only a line feed ends a line, not the further characters of str.splitlines."""
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}, line {number}: not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def _plain(stream: BinaryIO, file: str, column: str) -> Iterator[str]:
    del column  # lines have none
    yield from decoded_lines(stream, file)


def _jsonl(stream: BinaryIO, file: str, column: str) -> Iterator[str]:
    for number, line in enumerate(decoded_lines(stream, file), start=1):
        if not line.strip():
            continue  # a blank line is no row in JSONL
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {number}: not JSON: {error}") from error
        text = row.get(column) if isinstance(row, dict) else row
        if not isinstance(text, str):
            if isinstance(row, dict) and column in row:
                raise InputError(f"{file}, line {number}: {column!r} is {text!r:.40}, not text")
            raise InputError(f"{file}, line {number}: no text under {column!r}{_known(row)}; choose with --column")
        if "\\u" in line and lone_surrogate(text) is not None:
            raise InputError(f"{file}, line {number}: the text has a lone surrogate, which is not valid Unicode")
        yield text


def _separated(stream: BinaryIO, file: str, column: str, delimiter: str) -> Iterator[str]:
    csv.field_size_limit(LARGEST_CELL)
    rows = csv.reader((line + "\n" for line in decoded_lines(stream, file)), delimiter=delimiter, strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if column not in header:
            raise InputError(f"{file} has no column {column!r}; it has {', '.join(header)}; choose with --column")
        if header.count(column) > 1:
            raise InputError(f"{file} has {header.count(column)} columns named {column!r}")
        place = header.index(column)
        for row in rows:
            if not row:
                continue  # a blank line is no row in CSV
            if len(row) != len(header):
                raise InputError(
                    f"{file}, line {rows.line_num}: the row has {len(row)} cells and the header {len(header)}; "
                    "is a text with a comma not in quotes?"
                )
            yield row[place]
    except csv.Error as error:
        raise InputError(f"{file}, line {rows.line_num}: {error}") from error


def _parquet(file: str, column: str) -> Iterator[str]:
    table = _parquet_file(file)
    names = table.schema_arrow.names
    if names.count(column) != 1:
        what = "no column" if column not in names else f"{names.count(column)} columns"
        raise InputError(f"{file} has {what} {column!r}; it has {', '.join(names)}; choose with --column")
    blocks = table.iter_batches(columns=[column])
    number = 0
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:  # pyarrow raises OSError and its own kinds for a damaged page
            raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        if block is None:
            return
        for text in block.column(0).to_pylist():
            if not isinstance(text, str):
                raise InputError(f"{file}, row {number}: {column!r} is {text!r:.40}, not text")
            yield text
            number += 1


def _parquet_file(file: str) -> Any:
    if file == STDIN:
        raise InputError("Parquet cannot be read from standard input; give a file")
    check_readable(file)
    try:
        import pyarrow.parquet  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise MissingExtraError(f"{file}: Parquet needs pyarrow; install it with: pip install pyarrow") from error
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _known(row: object) -> str:
    return f", only {', '.join(map(repr, row))}" if isinstance(row, dict) and row else ""


def _csv(stream: BinaryIO, file: str, column: str) -> Iterator[str]:
    yield from _separated(stream, file, column, ",")


def _tsv(stream: BinaryIO, file: str, column: str) -> Iterator[str]:
    yield from _separated(stream, file, column, "\t")


_READERS: dict[str, Callable[[BinaryIO, str, str], Iterator[str]]] = {
    "txt": _plain,
    "jsonl": _jsonl,
    "csv": _csv,
    "tsv": _tsv,
}

FORMATS = get_args(InputFormat)
