"""Streams of texts from files, pipes or standard input, read by the readers of `tsjax.jobs.input.rows`."""

from __future__ import annotations

import codecs
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tsjax.errors import InputError
from tsjax.jobs.input.columns import Columns
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.rows import check_columns, open_rows
from tsjax.jobs.input.sources import Replayed, check_dialect, content_of, open_raw, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsjax.jobs.input.reader import RowReader

STDIN = "-"
DEFAULT_COLUMN = "text"


def read_texts(file: str, column: str | None = None, reading: Reading | None = None) -> Iterator[str]:
    """Yield the texts of a file in order, read lazily.

    Args:
        file: a path, or ``-`` for standard input.
        column: the key, header or column that holds the text; None for ``text``, or for lines, which have no columns.
        reading: the user's options for reading; None to detect the format from the name and the first bytes. With one
            text per line, empty lines are kept, so that the nth vector belongs to the nth line.

    Raises:
        InputError: the file cannot be read, has no such column, or has a value that is not text. The message names the
            file and the line.
        MissingExtraError: a package that the format needs is not installed.
    """
    with contextlib.closing(open_file(file, Columns(text=column or DEFAULT_COLUMN), reading, column)) as reader:
        yield from reader.texts()


def open_file(
    file: str, columns: Columns | None, reading: Reading | None = None, named: str | None = None
) -> RowReader:
    """Open a reader at the first row of a file, a pipe or standard input.

    Args:
        file: a path, or ``-`` for standard input.
        columns: the columns to read; None for all.
        reading: the user's options for reading; None to detect the format from the name and the first bytes.
        named: the column of the text, if the user names one; lines of text have no columns.

    Raises:
        InputError: the file cannot be read, or has no such column.
        MissingExtraError: a package that the format needs is not installed.
    """
    said = reading or Reading()
    raw = _open(file)
    try:
        content = content_of("standard input" if file == STDIN else file, raw, said)
        source = source_of(file, file, content, said, () if columns is None else columns.needed, size=_size(file))
        check_dialect(said, [source])
        if named is not None and content.format == "txt":
            raise InputError(f"{file} is lines of text, which have no column {named!r}; leave it out")
        return open_rows(source, columns, raw.release() if isinstance(raw, Replayed) else raw)
    except BaseException:
        raw.close()
        raise


def check_texts(files: list[str], column: str | None, reading: Reading) -> None:
    """Check before any work that files can be read and have a column; pipes are checked when they are read.

    Raises:
        InputError: a file cannot be read, or none of its rows has the column.
        MissingExtraError: a package that a format needs is not installed.
    """
    for file in files:
        if file == STDIN:
            if sys.stdin is None:
                raise InputError("standard input is closed")
        elif not _is_pipe(file):
            columns = Columns(text=column or DEFAULT_COLUMN)
            with contextlib.closing(open_file(file, columns, reading, column)) as reader:
                source = reader.source
            check_columns([source], columns)


def count_texts(file: str, reading: Reading | None = None, column: str | None = None) -> int | None:
    """Return the number of texts in a file, for a progress bar; None if it cannot be determined cheaply."""
    if file == STDIN or _is_pipe(file):
        return None
    said = reading or Reading()
    with open_raw(file) as raw:
        source = source_of(file, file, content_of(file, raw, said), said)
    if source.format == "parquet":
        with contextlib.closing(open_rows(source, Columns(text=column or DEFAULT_COLUMN))) as reader:
            return reader.skip(sys.maxsize)
    if source.format not in ("txt", "jsonl") or source.compression or source.encoding:
        return None
    lines, last = 0, b""
    with open_raw(file) as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
            last = block
    return lines + (last not in (b"", codecs.BOM_UTF8) and not last.endswith(b"\n"))


def _open(file: str) -> BinaryIO:
    """Open a file or standard input; a pipe is wrapped so that it can be read from its start again after detection."""
    if file == STDIN:
        if sys.stdin is None:
            raise InputError("standard input is closed")
        return Replayed(sys.stdin.buffer, closes=False)  # type: ignore[return-value]  # a BinaryIO for reading
    raw = open_raw(file)
    return Replayed(raw, closes=True) if _is_pipe(file) else raw  # type: ignore[return-value]


def _is_pipe(file: str) -> bool:
    """Tell whether a file can be read only once."""
    path = Path(file)
    return path.exists() and not path.is_file() and not path.is_dir()


def _size(file: str) -> int:
    with contextlib.suppress(OSError):
        return Path(file).stat().st_size
    return 0
