"""Which files a job reads, what they are known by, and how their bytes are opened.

Local files, or those of any store that fsspec knows (``gs://``, ``s3://``, …); plain or compressed.
`tsjax.jobs.input.formats` says what the bytes are, and `tsjax.jobs.input.rows` reads them.
"""

from __future__ import annotations

import bisect
import bz2
import codecs
import contextlib
import glob
import gzip
import hashlib
import io
import itertools
import lzma
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from tsjax.errors import InputError, MissingExtraError, TsjaxError, require_optional
from tsjax.jobs.input.formats import (
    HEAD,
    Compression,
    Content,
    Dialect,
    InputFormat,
    Reading,
    compression_of,
    has_input_suffix,
    recognise,
)
from tsjax.text.unicode import lone_surrogate
from tsjax.warn import warn
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

_BUFFER = 1 << 20

# What of the content is hashed before any work, so that an input is known by its bytes: about `_HASHED_BYTES` of all
# files, and of each as large a part, but at least `_LEAST_HASHED_BYTES`. A file that has no more is hashed whole, a
# larger one by `_SAMPLES` pieces of at most `_SAMPLE_BYTES`: hashing terabytes takes as long as reading them.
# What samples do not see, the digests of the rows in the shards' records do.
_HASHED_BYTES, _LEAST_HASHED_BYTES = 1 << 30, 1 << 16
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16
# Files that are hashed at a time, since a store takes its time to answer, and bytes of each.
_HASHING_THREADS, _HASHED_AT_ONCE = 8, 1 << 22
# Of a .zst file at a time, all of which is unpacked at once: of repetitive text, much more.
_PACKED_BUFFER = 1 << 15
# The greatest window of zstd, that of --long=31; zstandard allows 128 MiB unless told.
_MOST_WINDOW = 1 << 31
# What Hive and Spark write for null in a path.
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """One file of the input, as it was when the job was planned.

    Attributes:
        name: what ids and rejections call it: its path below the folder that all inputs share.
        url: where it is: a path, or a URL with a scheme.
        format: how its rows are written.
        compression: what its bytes are packed with.
        size: in bytes.
        version: what changes when its content may have changed: the time of its last change in nanoseconds, or a
            store's own mark. It tells that a file changes while it is read, and does not identify it.
        encoding: of its text, where it is not UTF-8.
        dialect: how its cells are written; None where it is neither CSV nor TSV.
        partitions: columns that its path has (``lang=en/``), of those that are needed, with their values.
        digest: SHA-256 of its bytes as they are stored, or of samples of them.
        hashed_whole: whether the digest is of all bytes.
    """

    name: str
    url: str
    format: InputFormat
    compression: Compression | None
    size: int
    version: str
    encoding: str | None = None
    dialect: Dialect | None = None
    partitions: tuple[tuple[str, str | None], ...] = ()
    digest: str = ""
    hashed_whole: bool = True

    def identity(self) -> dict[str, Any]:
        """What a manifest says of it: enough to see that it is another, wherever it lies, whenever it was written."""
        return {
            "name": self.name,
            "format": self.format,
            "bytes": self.size,
            "sha256" if self.hashed_whole else "samples_sha256": self.digest,
            **({"dialect": self.dialect.to_json()} if self.dialect is not None else {}),
            **({"partitions": dict(self.partitions)} if self.partitions else {}),
        }

    def check_unchanged(self) -> None:
        """Raise an InputError if the file is no longer what it was when the job was planned."""
        if _facts(self.url) != (self.size, self.version):
            raise InputError(f"{self.url} was changed while it was read; start again when it is at rest")


def find_sources(
    patterns: Sequence[str],
    reading: Reading | Mapping[str, Reading] = Reading(),  # noqa: B008  # which is frozen
    *,
    columns: Collection[str] = (),
    leave_out: Callable[[str, list[str]], list[str]] = lambda pattern, urls: urls,
) -> tuple[Source, ...]:
    """The files that the patterns name: in the patterns' order, and sorted within each.

    A file that is named twice, in whatever way, is there once.

    Args:
        patterns: paths or URLs, with ``*``, ``?``, ``[…]`` and ``**`` where several are meant.
        reading: how the user says that they are to be read; or of each file by its name (`Source.name`), where only
            these files may be given.
        columns: names of columns, for those that are in paths.
        leave_out: told a pattern and what it matches, gives the files that are meant; see `OutputFilter`.

    Raises:
        InputError: a pattern that no file matches, or one that is a folder; a file whose name is not UTF-8; two files
            that would have one name; a file or a reading without the other; a file that is in no format that is read,
            or whose format cannot be told; a dialect for files of which none is delimited text.
        MissingExtraError: a URL without fsspec, or without the package of its store.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        if not pattern:
            raise InputError("the name of an input is empty")
        for url in leave_out(pattern, _matches(pattern)):
            found.setdefault(_identity(url), url)
    urls = list(found.values())
    if not urls:
        raise InputError("no input is given")
    for url in urls:
        if lone_surrogate(url) is not None:
            raise InputError(f"the name of the file {url!r} is not UTF-8; give it another name")
    names = _names(urls)
    named: dict[str, str] = {}
    for url, name in zip(urls, names, strict=True):
        if (other := named.setdefault(name, url)) != url:
            raise InputError(f"{other} and {url} would both be called {name} in ids; name one of them otherwise")
    if not isinstance(reading, Reading):
        _check_same_names(names, reading)
    sources = []
    for url, name in zip(urls, names, strict=True):
        said = reading if isinstance(reading, Reading) else reading[name]
        size, version = _facts(url)
        with _beginning(url, size) as raw:
            content = content_of(url, raw, said)
        sources.append(source_of(name, url, content, said, columns, size=size, version=version))
    if isinstance(reading, Reading):
        check_dialect(reading, sources)
    return _with_digests(sources)


def _identity(url: str) -> str:
    """What is the same for every name of a file; of ``file://`` and ``local://``, the path."""
    path = url.removeprefix("file://").removeprefix("local://")
    return path if is_url(path) else os.path.realpath(path)


def _check_same_names(names: Collection[str], known: Collection[str]) -> None:
    """Raise an InputError if files have other names than a job's, which go by the folder that all of them share."""
    if others := [name for name in names if name not in known]:
        called = ", ".join(itertools.islice(known, 3)) + (", …" if len(known) > 3 else "")
        had = counted(len(known), "input")
        raise InputError(f"the input {others[0]} was not in the job, which had {had}: {called}")
    if missing := sorted(set(known).difference(names)):
        raise InputError(
            f"the input {missing[0]} was in the job and is not given: {counted(len(names), 'input')} of {len(known):,}"
        )


def source_of(
    name: str,
    url: str,
    content: Content,
    reading: Reading,
    columns: Collection[str] = (),
    *,
    size: int = 0,
    version: str = "",
) -> Source:
    """A file as a source.

    Args:
        name: what it is called in ids and rejections.
        url: where it is.
        content: what it holds.
        reading: how the user says that it is to be read.
        columns: names of columns, for those that are in its path.
        size: in bytes.
        version: see `Source`.

    Raises:
        InputError: the path gives a column two values, or one that is not UTF-8.
    """
    return Source(
        name,
        url,
        content.format,
        content.compression,
        size,
        version,
        content.encoding,
        reading.dialect(content.format),
        _partitions(url, columns),
    )


def check_dialect(reading: Reading, sources: Sequence[Source]) -> None:
    """Raise an InputError if a dialect is given, and no file is delimited text."""
    if reading.has_dialect and sources and all(source.dialect is None for source in sources):
        raise InputError(
            f"a delimiter, quote or escape is given for delimited text (CSV, TSV), and {sources[0].url} is "
            f"{sources[0].format}; leave it out, or say --input-format csv"
        )


def content_of(name: str, raw: BinaryIO, reading: Reading) -> Content:
    """What a file holds, by its name and its first bytes; leaves the file at its start.

    Args:
        name: its path or URL.
        raw: it, at its start; it has to go back there.
        reading: how the user says that it is to be read.

    Raises:
        InputError: it cannot be read; see `tsjax.jobs.input.formats.recognise`.
        MissingExtraError: zstd without the package zstandard.
    """
    with _reading(name):
        head = raw.read(HEAD)
        compression = compression_of(name, head)
        raw.seek(0)
        if compression is not None:
            head = _head(_unpacking(raw, compression))
            raw.seek(0)
    return recognise(name, head, compression, reading.format)


def _no_such_file(name: str) -> InputError:
    """Return the error for an input that is not there.

    Args:
        name: a path, a URL or a pattern of them, as the user gave it.
    """
    return InputError(f"no file matches {name}" if glob.has_magic(name) else f"there is no file {name}")


@contextlib.contextmanager
def _reading(url: str) -> Iterator[None]:
    """Turn what a file system or a store raises into an InputError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise _no_such_file(url) from error
    except OSError as error:
        raise InputError(f"cannot read {url}: {error.strerror or error}") from error
    except TsjaxError:
        raise
    except Exception as error:
        if not is_url(url):
            raise
        # The packages of stores have exceptions of their own, for credentials, networks and limits.
        raise InputError(f"cannot read {url}: {type(error).__name__}: {error}") from error


def _beginning(url: str, size: int) -> BinaryIO:
    """Open a file to look at its first bytes; of a store no more than about those are asked for."""
    return cast("BinaryIO", _Fetched(url, size)) if is_url(url) else open_raw(url)


class _Fetched(io.RawIOBase):
    """A file of a store from its start, in pieces that grow: the first is `HEAD`, and each as large as all before it.

    Args:
        url: where it is.
        size: in bytes.
    """

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._system = url, size, _file_system(url)
        self._fetched, self._place = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._place == len(self._fetched) < self._size:
            self._fetch()
        block = self._fetched[self._place : self._place + len(buffer)]
        buffer[: len(block)] = block
        self._place += len(block)
        return len(block)

    def _fetch(self) -> None:
        start = len(self._fetched)
        with _reading(self._url):
            self._fetched += self._system.cat_file(self._url, start=start, end=min(max(HEAD, 2 * start), self._size))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the start."""
        if offset or whence:
            raise io.UnsupportedOperation("seek")
        self._place = 0
        return 0


def _head(stream: Any) -> bytes:
    """The first bytes of compressed data, so far as they can be unpacked: whoever reads it finds the damage."""
    read = getattr(stream, "read1", stream.read)  # one block, so that damage after it does not take it along
    head = b""
    try:
        while len(head) < HEAD and (block := read(min(1 << 12, HEAD - len(head)))):
            head += block
    except InputError:  # a store that does not answer is no damage
        raise
    except Exception:  # zlib, lzma and zstandard each have their own kinds
        return head
    return head


def _partitions(url: str, columns: Collection[str]) -> tuple[tuple[str, str | None], ...]:
    """The columns that a path has, as Hive and Spark write them: ``lang=en/``, percent-encoded."""
    found: dict[str, str | None] = {}
    for folder in absolute(url).split("/")[:-1] if columns else ():
        key, equals, value = folder.partition("=")
        try:
            if not equals or (name := unquote(key, errors="strict")) not in columns:
                continue
            decoded = None if value == _NULL_PARTITION else unquote(value, errors="strict")
        except UnicodeDecodeError as error:
            raise InputError(f"{url}: the folder {folder!r} is not percent-encoded UTF-8") from error
        if found.setdefault(name, decoded) != decoded:
            raise InputError(f"{url} has two values for the column {name!r} in its path")
    return tuple(found.items())


def is_url(path: str) -> bool:
    """Whether a name is for fsspec: it has a scheme."""
    return "://" in path


def absolute(path: str) -> str:
    """A path from the root, or a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100


def open_raw(url: str) -> BinaryIO:
    """The bytes of a file as they are stored, seekable.

    Raises:
        InputError: it cannot be opened.
        MissingExtraError: a URL without fsspec, or without the package of its store.
    """
    with _reading(url):
        return cast("BinaryIO", _file_system(url).open(url, "rb")) if is_url(url) else Path(url).open("rb")


def unpacked(raw: BinaryIO, compression: Compression | None, encoding: str | None = None) -> BinaryIO:
    """The bytes of a file as they were before it was packed, text as UTF-8.

    Raises:
        MissingExtraError: zstd without the package zstandard.
    """
    stream = _unpacking(raw, compression)
    if encoding is not None:
        stream = _AsUtf8(stream, encoding)
    if isinstance(stream, io.BufferedReader):
        return stream
    # A store's file finds each line by itself, many times as slowly.
    return cast("BinaryIO", io.BufferedReader(stream, _BUFFER))


def _unpacking(raw: BinaryIO, compression: Compression | None) -> Any:
    """The bytes of a file as they were before it was packed, unpacked as they are asked for; raises as `unpacked`."""
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if compression == "bzip2":
        return _Frames(raw, bz2.BZ2Decompressor)
    if compression == "xz":
        return _Frames(raw, lzma.LZMADecompressor, padding=b"\0")
    if compression == "zstd":
        zstandard = require_optional("zstandard", extra="batch", feature=".zst")
        return _Frames(raw, zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).decompressobj)
    return raw


def lines_of(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Give the lines of text, with their ends and without a byte order mark: none where there is nothing else."""
    lines = iter(stream)
    if first := next(lines, b"").removeprefix(codecs.BOM_UTF8):
        yield first
    yield from lines


class _AsUtf8(io.RawIOBase):
    """Text of another encoding as UTF-8. What cannot be decoded is a ValueError."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder(encoding)()
        self._decoded = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decoded:
            block = self._stream.read(_BUFFER)
            self._decoded = memoryview(self._decoder.decode(block, final=not block).encode())
            if not block:
                break
        size = min(len(buffer), len(self._decoded))
        buffer[:size] = self._decoded[:size]
        self._decoded = self._decoded[size:]
        return size


class Replayed(io.RawIOBase):
    """A stream that is read once, and can go back to its start as long as it is looked at.

    Args:
        stream: such as a pipe, which is closed with it, or standard input, which is not.
        closes: whether it is.
    """

    def __init__(self, stream: BinaryIO, *, closes: bool) -> None:
        self._closes = closes
        self._stream, self._seen, self._place, self._looking = stream, bytearray(), 0, True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._place < len(self._seen):
            block = bytes(self._seen[self._place : self._place + len(buffer)])
        else:
            block = self._stream.read(len(buffer))
            if self._looking:
                self._seen += block
        self._place += len(block)
        buffer[: len(block)] = block
        if not self._looking and self._place >= len(self._seen):
            self._seen.clear()
            self._place = 0
        return len(block)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go back to the start."""
        if offset or whence or not self._looking:
            raise io.UnsupportedOperation("seek")
        self._place = 0
        return 0

    def tell(self) -> int:
        """Nothing that is known."""
        return 0

    def close(self) -> None:
        if self._closes:
            self._stream.close()
        super().close()

    def release(self) -> BinaryIO:
        """The stream from its start, which is kept no longer."""
        self._looking, self._place = False, 0
        return cast("BinaryIO", self)


class _Frames(io.RawIOBase):
    """The bytes of a compressed file, frame after frame: unlike the libraries' own streams, an error where it was cut.

    Nor do they say so where what follows a frame is none; these bytes may have been rows.

    Args:
        raw: the file.
        begin: makes a decompressor for one frame.
        padding: bytes that may stand between frames.
    """

    def __init__(self, raw: BinaryIO, begin: Callable[[], Any], padding: bytes = b"") -> None:
        self._raw, self._begin, self._padding = raw, begin, padding
        self._frame: Any = None
        self._packed = self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            packed = self._packed or memoryview(self._raw.read(_PACKED_BUFFER))
            if not packed:
                if self._frame is not None:
                    raise EOFError("the file ends in the midst of packed data; it was cut")
                return 0
            if self._frame is None:
                if self._padding and not (packed := memoryview(bytes(packed).lstrip(self._padding))):
                    self._packed = packed
                    continue
                self._frame = self._begin()
            self._unpacked, self._packed = memoryview(self._frame.decompress(packed)), memoryview(b"")
            if self._frame.eof:
                self._packed, self._frame = memoryview(self._frame.unused_data), None
        size = min(len(buffer), len(self._unpacked))
        buffer[:size] = self._unpacked[:size]
        self._unpacked = self._unpacked[size:]
        return size


def _matches(pattern: str) -> list[str]:
    if is_url(pattern):
        return _remote_matches(pattern)
    expanded = os.path.expanduser(pattern)
    if Path(expanded).is_file():
        return [expanded]  # also where its name has a bracket in it
    if Path(expanded).is_dir():
        raise InputError(f"{pattern} is a folder; name its files, such as '{pattern.rstrip('/')}/*.jsonl'")
    found = sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207
    files = [path for path in found if Path(path).is_file()]
    # A pipe or the like is no input, and no mistake.
    others = {path: Path(path).is_dir() for path in found if Path(path).is_dir() or not Path(path).exists()}
    _tell_others(pattern, files, others)
    return files


def _remote_matches(pattern: str) -> list[str]:
    system = _file_system(pattern)
    scheme = pattern.split("://", maxsplit=1)[0]
    with _reading(pattern):
        # Also where its name has a bracket in it.
        plain = not glob.has_magic(pattern) or _kind(system, pattern) == "file"
        found = [pattern] if plain else sorted(system.glob(pattern))
        kinds = {path: _kind(system, path) for path in found}
    files = [path for path in found if kinds[path] == "file"]
    others = {path: True for path in found if kinds[path] == "directory"}
    files = [_with_scheme(path, scheme) for path in files]
    _tell_others(pattern, files, {_with_scheme(path, scheme): folder for path, folder in others.items()})
    return files


def _kind(system: Any, path: str) -> str | None:
    """What is there: "file", "directory", or None. fsspec's own `isfile` says no, too, where it could not look."""
    try:
        return cast("str", system.info(path)["type"])
    except FileNotFoundError:
        return None


def _with_scheme(path: str, scheme: str) -> str:
    return path if is_url(path) else f"{scheme}://{path}"


def _tell_others(pattern: str, files: Sequence[str], others: Mapping[str, bool]) -> None:
    """Warn of what else than files a pattern matches, unless the pattern matches files in it, too.

    Nor is it told of folders that only ``*`` matches, and whose names are none of files: they are not meant.

    Args:
        pattern: with or without wildcards.
        files: those that it matches, sorted.
        others: the others, with whether they are folders.

    Raises:
        InputError: it matches no files.
    """
    told = {path: folder for path, folder in others.items() if not files or _is_passed_over(pattern, path, files)}
    first = next(iter(told), None)
    what = "" if first is None else f"a folder; name its files: '{first.rstrip('/')}/*'" if told[first] else "no file"
    if not files:
        raise _no_such_file(pattern) if first is None else InputError(f"no file matches {pattern}; {first} is {what}")
    if first is not None:
        more = f" (and {len(told) - 1:,} more)" if len(told) > 1 else ""
        warn(f"{pattern} also matches {first}, which is {what}; it is passed over{more}", UserWarning)


def _is_passed_over(pattern: str, path: str, files: Sequence[str]) -> bool:
    """Whether nothing in a folder is read although it looks as if it was meant; also of what is no folder."""
    inside = f"{path.rstrip('/')}/"
    place = bisect.bisect(files, inside)
    if place < len(files) and files[place].startswith(inside):
        return False
    return bool(pattern.rstrip("/").rpartition("/")[2].strip("*?")) or has_input_suffix(path.rstrip("/"))


def _facts(url: str) -> tuple[int, str]:
    """Size and version of a file."""
    with _reading(url):
        if is_url(url):
            info = _file_system(url).info(url)
            marks = (
                "etag",
                "ETag",
                "md5Hash",
                "crc32c",
                "generation",
                "version_id",
                "mtime",
                "LastModified",
                "created",
            )
            mark = next((f"{name}:{info[name]}" for name in marks if info.get(name) is not None), "unknown")
            if info.get("size") is None:
                raise InputError(f"cannot read {url}: its store does not say how large it is; fetch it first")
            return int(info["size"]), mark
        facts = Path(url).stat()
        return facts.st_size, f"mtime:{facts.st_mtime_ns}"


def _with_digests(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The same files with digests of their content."""
    most = max(_HASHED_BYTES // len(sources), _LEAST_HASHED_BYTES)
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        digests = pool.map(lambda source: _digest(source, most), sources)
        return tuple(
            replace(source, digest=digest, hashed_whole=source.size <= most)
            for source, digest in zip(sources, digests, strict=True)
        )


def _digest(source: Source, most: int) -> str:
    """SHA-256 of a file of up to so many bytes, or of pieces at even distances, its first and last bytes in them."""
    if source.size <= most:
        ends = [*range(0, source.size, _HASHED_AT_ONCE), source.size]
        spans = list(itertools.pairwise(ends))
    else:
        size = min(most // _SAMPLES, _SAMPLE_BYTES)
        starts = [(source.size - size) * number // (_SAMPLES - 1) for number in range(_SAMPLES)]
        spans = [(start, start + size) for start in starts]
    digest = hashlib.sha256()
    with _reading(source.url):
        if is_url(source.url):
            system = _file_system(source.url)
            for start, end in spans:
                digest.update(system.cat_file(source.url, start=start, end=end))
        else:
            with open_raw(source.url) as raw:
                for start, end in spans:
                    raw.seek(start)
                    digest.update(raw.read(end - start))
    return digest.hexdigest()


def _file_system(url: str) -> Any:
    fsspec = require_optional("fsspec", extra="batch", feature=url)
    try:
        system, _ = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:  # says which package a store needs
        raise MissingExtraError(f"{url}: {error}") from error
    except ValueError as error:
        raise InputError(f"{url}: {error}") from error
    return system


def _names(urls: Sequence[str]) -> list[str]:
    """What is left of each path when the folder that all share is taken off."""
    whole = [url if is_url(url) else Path(absolute(url)).as_posix() for url in urls]
    parts = [path.split("/") for path in whole]
    common = os.path.commonprefix([path[:-1] for path in parts])  # noqa: RUF071  # of lists, which it compares by item
    return ["/".join(path[len(common) :]) for path in parts]
