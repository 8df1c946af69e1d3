"""Detection of a file's format, compression and encoding, from its name and first bytes or the user's options.

Every command uses this module. A file whose format is ambiguous or contradictory is refused.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from tsjax.errors import InputError
from tsjax.storage.json_values import decode

if TYPE_CHECKING:
    from collections.abc import Mapping

InputFormat: TypeAlias = Literal["txt", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]
Compression: TypeAlias = Literal["gzip", "zstd", "bzip2", "xz"]

FORMATS: tuple[str, ...] = get_args(InputFormat)
DELIMITED = ("csv", "tsv")
JSON = ("jsonl", "json")
# Formats whose rows are stored by column, with types.
TABLES = ("parquet", "arrow")

# Lines of delimited text that have no cell, unless there is only one column.
EMPTY_LINES = (b"\n", b"\r\n")

# Number of first bytes, of a file and of its decompressed content, from which the format is detected.
HEAD = 1 << 16

_BY_SUFFIX: dict[str, InputFormat] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_COMPRESSED: dict[str, Compression] = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bzip2",
    ".xz": "xz",
}
# Suffixes of structured data that first bytes do not always identify; the lines of such files are not texts.
_STRUCTURED = (".xml", ".html", ".htm", ".yaml", ".yml", ".toml", ".sql", ".ipynb", ".pkl", ".pickle", ".xls", ".xlsx")

_TABLE_MAGIC: tuple[tuple[re.Pattern[bytes], InputFormat], ...] = (
    (re.compile(rb"PAR1"), "parquet"),
    (re.compile(rb"ARROW1"), "arrow"),
    # An Arrow stream: a mark, and the size of its schema, whose upper byte is 0.
    (re.compile(rb"\xff{4}[\s\S]{3}\x00"), "arrow"),
)
_COMPRESSION_MAGIC: tuple[tuple[re.Pattern[bytes], Compression], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
)
_CONVERT = "convert it to Parquet, JSON lines or CSV"
# Formats that are not read: the offset of the identifying bytes, these bytes, the name of the format, and advice.
_REFUSED: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive (.xlsx, .docx and .npz are such)", "unpack it, or export it as CSV or Parquet"),
    (0, b"PK\x05\x06", "an empty zip archive", "name other files"),
    (257, b"ustar\x00", "a tar archive", "unpack it"),
    (257, b"ustar  \x00", "a tar archive", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (0, b"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", "unpack it, or compress it by gzip or zstd"),
    (0, b"\xff\x06\x00\x00sNaPpY", "compressed by snappy", "unpack it, or compress it by gzip or zstd"),
    (0, b"\x1f\x9d", "compressed by compress (.Z)", "unpack it, or compress it by gzip or zstd"),
    (0, b"PARE", "an encrypted Parquet file", "decrypt it"),
    (0, b"FEA1", "a Feather file of version 1", "write it again as version 2 (pyarrow.feather.write_feather)"),
    (0, b"ORC", "an ORC file", _CONVERT),
    (0, b"Obj\x01", "an Avro file", _CONVERT),
    (0, b"SEQ\x06", "a Hadoop sequence file", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _CONVERT),
    (0, b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of Microsoft Office", "export it as CSV"),
    (0, b"%PDF-", "a PDF", "extract its text"),
    (0, b"{\\rtf", "an RTF document", "export it as text"),
    (0, b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS, not the file", "fetch it: git lfs pull"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Control characters that text does not contain, except for a stray one: NUL to US without white space and escape.
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_MARKUP = re.compile(rb"<(\?xml|!doctype|html)", re.IGNORECASE)
_STRING = rb'"(?:[^"\\]|\\.)*"'
_JSON_ROWS = re.compile(rb"\[?\s*\{\s*" + _STRING + rb"\s*:|\[\s*" + _STRING + rb"\s*[,\]]")


@dataclass(frozen=True)
class Dialect:
    r"""The dialect of delimited text.

    Attributes:
        delimiter: the character between cells.
        quote: the quotation mark around cells, doubled within a cell; None for no quoting.
        escape: the escape character, which removes the meaning of the next character; None for none. With a quotation
            mark, it is used as by Spark: within quoted cells, before a quotation mark or itself. Without one, it is
            used as by Hive: before any character; ``\n``, ``\r`` and ``\t`` have their usual meaning, and a cell
            ``\N`` is null.
        trusted: accept a quoted cell of several lines even if its lines look like rows.
    """

    delimiter: str
    quote: str | None
    escape: str | None = None
    trusted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the dialect as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Reading:
    r"""The user's options for reading files.

    Attributes:
        format: the format of all files; None to detect it from the name and the first bytes of each file. ``jsonl`` and
            ``json`` both stand for JSON lines or one array of objects, which the first bytes distinguish.
        delimiter: the character between the cells of CSV and TSV; None for a comma and a tab.
        quote: the quotation mark around cells of CSV and TSV, or ``none``; None for ``"`` in CSV and ``none`` in TSV.
        escape: the escape character of CSV and TSV; None for none.

    Raises:
        InputError: there is no such format, or an option is not a valid character.
    """

    format: InputFormat | None = None
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise InputError(f"input format {self.format!r} does not exist; it can be {', '.join(FORMATS)}")
        characters = {"delimiter": self.delimiter, "quote": self.quote, "escape": self.escape}
        if self.quote == "none":
            characters.pop("quote")
        given = {name: value for name, value in characters.items() if value is not None}
        for name, value in given.items():
            if len(value) != 1 or not value.isascii() or value.isalnum() or value in "\n\r\0":
                expected = "one character of ASCII, neither a letter nor a digit" + (
                    ", or none" if name == "quote" else ""
                )
                raise InputError(f"the {name} of delimited text must be {expected}; got {value!r}")
        _check_distinct(given, "delimited text")

    @property
    def has_dialect(self) -> bool:
        """Tell whether an option for delimited text is given."""
        return any(value is not None for value in (self.delimiter, self.quote, self.escape))

    def dialect(self, format_: InputFormat) -> Dialect | None:
        """Return the dialect of a format; None if it is not delimited text.

        Raises:
            InputError: a character is the same as the default of another one in this format.
        """
        if format_ not in DELIMITED:
            return None
        delimiter = self.delimiter or ("," if format_ == "csv" else "\t")
        said = self.quote or ('"' if format_ == "csv" else "none")
        quote = None if said == "none" else said
        _check_distinct({"delimiter": delimiter, "quote": quote, "escape": self.escape}, _named(format_))
        return Dialect(delimiter, quote, self.escape, trusted=self.quote is not None)

    @classmethod
    def recorded(cls, facts: Mapping[str, Any]) -> Reading:
        """Return the options with which a file was read, from its entry in a manifest (`Source.identity`)."""
        dialect = facts.get("dialect")
        if dialect is None:
            return cls(facts["format"])
        told = decode(dialect, Dialect, "the dialect of an input")
        # Untrusted quotes mean that the user gave no quote option, so the default of the format was used.
        return cls(facts["format"], told.delimiter, (told.quote or "none") if told.trusted else None, told.escape)


def _check_distinct(marks: Mapping[str, str | None], what: str) -> None:
    """Raise an InputError if two special characters of delimited text are the same."""
    for (one, mark), (other, same) in itertools.combinations(marks.items(), 2):
        if mark is not None and mark == same:
            doubled = "; quotation marks that are doubled within quotes need no option"
            advice = doubled if (one, other) == ("quote", "escape") else ""
            raise InputError(f"the {one} and {other} of {what} are both {mark!r}, and must differ{advice}")


class Content(NamedTuple):
    """The format, compression and encoding of a file.

    Attributes:
        format: format of the rows.
        compression: compression of the bytes; None for none.
        encoding: encoding of the text; None for UTF-8.
    """

    format: InputFormat
    compression: Compression | None
    encoding: str | None


def compression_of(name: str, head: bytes) -> Compression | None:
    """Return the compression of a file, detected from its first bytes.

    Args:
        name: name or path of the file.
        head: first bytes of the file.

    Raises:
        InputError: the suffix of the file stands for a compression, but the file is not compressed.
    """
    found = next((kind for magic, kind in _COMPRESSION_MAGIC if magic.match(head)), None)
    said = _COMPRESSED.get(_suffix(name))
    if said is not None and found is None and head:
        raise InputError(f"{name} is not compressed by {said}, as its suffix says; rename it, or fetch it again")
    return found


def recognise(name: str, head: bytes, compression: Compression | None, asked: InputFormat | None) -> Content:
    """Return the content type of a file, detected from its name and the first bytes of its decompressed content.

    Args:
        name: name or path of the file; ``-`` for standard input.
        head: first bytes of the decompressed content, at most `HEAD`.
        compression: compression of the file.
        asked: the format that the user requests, if any.

    Raises:
        InputError: the format is not supported, cannot be detected, or is not the requested one. The message says what
            to do.
    """
    plain = name[: -len(_suffix(name))] if _suffix(name) in _COMPRESSED else name
    suffix = _suffix(plain)
    said = asked or _BY_SUFFIX.get(suffix)
    table = _table(head)
    if table is not None and (said in TABLES or not _is_text(head)):
        if asked not in (None, table):
            raise InputError(f"{name} is {_named(table)}, and not {_named(asked)} as the input format says")
        if compression is not None:
            raise InputError(
                f"{name} is {_named(table)} within {compression}, which cannot be read in pieces; unpack it"
            )
        return Content(table, compression, None)
    _check_known(name, head)
    if said in TABLES:
        raise InputError(f"{name} cannot be read as {_named(said)}: its first bytes are not those of such a file")
    encoding = next((encoding for mark, encoding in _ENCODINGS if head.startswith(mark)), None)
    if encoding is not None:
        head = codecs.getincrementaldecoder(encoding)("replace").decode(head).encode(errors="replace")
    _check_text(name, head)
    if said in JSON:
        return Content(_json_format(name, head, strict=said == "json"), compression, encoding)
    if said is None or (said == "txt" and asked is None):
        _check_lines(name, suffix, head)
    return Content(said or "txt", compression, encoding)


def is_blank(line: bytes, format_: InputFormat, width: int = 0) -> bool:
    """Tell whether a line is blank and therefore skipped instead of read as a row.

    Args:
        line: the line with its line end.
        format_: format of the file.
        width: number of columns of delimited text; 0 before its header.
    """
    if format_ in DELIMITED:
        return width != 1 and line in EMPTY_LINES
    return format_ in JSON and not line.strip()


def stem(name: str) -> str:
    """Return a file's name without the suffixes of formats and compressions."""
    plain = name[: -len(_suffix(name))] if _suffix(name) in _COMPRESSED else name
    return plain[: -len(_suffix(plain))] if _suffix(plain) in _BY_SUFFIX else plain


def has_input_suffix(name: str) -> bool:
    """Tell whether a name has the suffix of an input format or a compression."""
    return _suffix(name) in _BY_SUFFIX or _suffix(name) in _COMPRESSED


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _named(format_: str | None) -> str:
    names = {"parquet": "Parquet", "arrow": "Arrow", "jsonl": "JSON lines", "json": "JSON", "txt": "lines of text"}
    return names.get(str(format_), str(format_).upper())


def _table(head: bytes) -> InputFormat | None:
    return next((format_ for magic, format_ in _TABLE_MAGIC if magic.match(head)), None)


def _is_text(head: bytes) -> bool:
    """Tell whether a file begins like text, in any encoding.

    Some other formats begin with letters, which may also begin a text. Control characters are a sign of those formats;
    bytes that are not UTF-8 are not.
    """
    start = head[:512]
    return start == start.translate(None, _CONTROL)


def _check_known(name: str, head: bytes) -> None:
    """Raise an InputError for a known format that is not read."""
    text = _is_text(head)
    for place, magic, what, advice in _REFUSED:
        if head[place : place + len(magic)] == magic and (not text or len(magic) > 4):
            raise InputError(f"{name} is {what}, which is not read; {advice}")
    if _PICKLE.match(head):
        raise InputError(f"{name} is a pickle of Python, which is not read; {_CONVERT}")


def _check_text(name: str, head: bytes) -> None:
    """Raise an InputError for bytes that are not UTF-8 text or lines that end with a carriage return alone."""
    pairs = head[: len(head) // 2 * 2]
    for encoding, zeros in (("UTF-16LE", pairs[1::2]), ("UTF-16BE", pairs[::2])):
        if len(pairs) >= 4 and zeros.count(0) > 0.9 * len(zeros):
            raise InputError(
                f"{name} looks like {encoding} without a byte order mark; convert it: iconv -f {encoding} -t UTF-8"
            )
    controls = len(head) - len(head.translate(None, _CONTROL))
    if controls >= 8 and controls > len(head) / 20:
        raise InputError(f"{name} holds bytes that are no text, in a format that is not known; {_CONVERT}")
    if b"\r" in head.rstrip(b"\r") and b"\n" not in head:
        raise InputError(
            f"{name} ends its lines with a carriage return alone, and no line feed; convert it: tr '\\r' '\\n'"
        )


def _json_format(name: str, head: bytes, *, strict: bool) -> InputFormat:
    """Return ``jsonl`` for one JSON value per line or ``json`` for one array, detected from the first bytes.

    ``strict`` refuses other JSON, such as one object over several lines.
    """
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    first, end, rest = text.partition(b"\n")
    whole = _is_json(first)
    if text.startswith(b"["):
        return "jsonl" if whole and rest.strip() else "json"
    if strict and end and not whole:
        raise InputError(
            f"{name} is neither one array of objects nor JSON lines, since its first line is no JSON value; convert "
            "it: jq -c . (or .rows[], where the rows are within); or read it as JSON lines: --input-format jsonl"
        )
    return "jsonl"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _check_lines(name: str, suffix: str, head: bytes) -> None:
    """Raise an InputError if content looks like another format than lines of text and the user requests no format."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    door = "--input-format txt reads its lines as texts"
    if _JSON_ROWS.match(text):
        raise InputError(f"{name} looks like JSON; --input-format jsonl reads its rows, and {door}")
    if suffix in _STRUCTURED or (suffix != ".txt" and _MARKUP.match(text)):
        raise InputError(f"{name} is in a format that is not read; {_CONVERT}; {door}")
