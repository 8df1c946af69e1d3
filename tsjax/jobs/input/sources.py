"""Input files of a job: their discovery, their identity, and the opening of their bytes.

Files are local, or in any store that fsspec supports (``gs://``, ``s3://``, …), and plain or compressed.
`tsjax.jobs.input.formats` detects the format of the bytes, and `tsjax.jobs.input.rows` reads them.
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
from tsjax.wording import counted, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

_BUFFER = 1 << 20

# Content is hashed before any work, so that an input is identified by its bytes. About `_HASHED_BYTES` of all files are
# hashed, in equal shares, but at least `_LEAST_HASHED_BYTES` of each file. A file up to this size is hashed completely.
# A larger file is hashed by `_SAMPLES` samples of at most `_SAMPLE_BYTES`, because hashing terabytes takes as long as
# reading them. Changes between the samples are detected by the digests of rows in the records of shards.
_HASHED_BYTES, _LEAST_HASHED_BYTES = 1 << 30, 1 << 16
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16
# Number of files that are hashed at once, since stores answer slowly, and bytes of each that are read at a time.
_HASHING_THREADS, _HASHED_AT_ONCE = 8, 1 << 22
# Compressed bytes that are read at a time. All of them are decompressed at once, to much more for repetitive text.
_PACKED_BUFFER = 1 << 15
# The largest window of zstd, that of --long=31; the default limit of zstandard is 128 MiB.
_MOST_WINDOW = 1 << 31
# The name that Hive and Spark write for null in a path.
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """One file of the input, as it was when the job was planned.

    Attributes:
        name: name of the file in ids and rejections: its path below the folder that all inputs share.
        url: location of the file: a path, or a URL with a scheme.
        format: format of the rows.
        compression: compression of the bytes; None for none.
        size: size in bytes.
        version: a value that changes when the content may have changed: the time of the last change in nanoseconds, or
            the store's version mark. It reveals that a file changes while it is read, and does not identify the file.
        encoding: encoding of the text; None for UTF-8.
        dialect: dialect of CSV or TSV; None for other formats.
        partitions: needed columns that the path has (``lang=en/``), with their values.
        digest: SHA-256 of the stored bytes, or of samples of them.
        hashed_whole: whether the digest covers all bytes.
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
        """Return the file's entry in a manifest.

        The entry distinguishes the file from others, independently of its location and the time of its last change.
        """
        return {
            "name": self.name,
            "format": self.format,
            "bytes": self.size,
            "sha256" if self.hashed_whole else "samples_sha256": self.digest,
            **({"dialect": self.dialect.to_json()} if self.dialect is not None else {}),
            **({"partitions": dict(self.partitions)} if self.partitions else {}),
        }

    def check_unchanged(self) -> None:
        """Raise an InputError if the file has changed since the job was planned."""
        if _facts(self.url) != (self.size, self.version):
            raise InputError(f"{self.url} was changed while it was read; start again when it is at rest")


def find_sources(
    patterns: Sequence[str],
    reading: Reading | Mapping[str, Reading] = Reading(),  # noqa: B008  # Reading is frozen
    *,
    columns: Collection[str] = (),
    leave_out: Callable[[str, list[str]], list[str]] = lambda pattern, urls: urls,
) -> tuple[Source, ...]:
    """Return the files that match the patterns, in the order of the patterns and sorted within each.

    A file that is named twice, even by different paths, is returned once.

    Args:
        patterns: paths or URLs; ``*``, ``?``, ``[…]`` and ``**`` match several files.
        reading: the user's options for reading, for all files or for each file by its name (`Source.name`). In the
            second case exactly these files must be given.
        columns: names of needed columns, to find those that are in paths.
        leave_out: function that takes a pattern and its matches, and returns the files to read; see `OutputFilter`.

    Raises:
        InputError: a pattern matches no file or is a folder; the name of a file is not UTF-8; two files would have the
            same name; there is a file without options or options without a file; the format of a file is not supported
            or cannot be detected; or a dialect is given and no file is delimited text.
        MissingExtraError: fsspec, or the package of a URL's store, is not installed.
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
    """Return a key that is the same for every name of a file; for ``file://`` and ``local://``, the path."""
    path = url.removeprefix("file://").removeprefix("local://")
    return path if is_url(path) else os.path.realpath(path)


def _check_same_names(names: Collection[str], known: Collection[str]) -> None:
    """Raise an InputError if the names of files differ from those of a job.

    Names are relative to the folder that all files share.
    """
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
    """Return the source for a file.

    Args:
        name: name of the file in ids and rejections.
        url: location of the file.
        content: format, compression and encoding of the file.
        reading: the user's options for reading.
        columns: names of needed columns, to find those that are in the path.
        size: size in bytes.
        version: see `Source`.

    Raises:
        InputError: the path gives a column two values, or a value that is not UTF-8.
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
    """Raise an InputError if a dialect is given and no file is delimited text."""
    if reading.has_dialect and sources and all(source.dialect is None for source in sources):
        raise InputError(
            f"a delimiter, quote or escape is given for delimited text (CSV, TSV), and {sources[0].url} is "
            f"{sources[0].format}; leave it out, or say --input-format csv"
        )


def content_of(name: str, raw: BinaryIO, reading: Reading) -> Content:
    """Return the content type of a file, detected from its name and first bytes; leave the file at its start.

    Args:
        name: path or URL of the file.
        raw: the open file, at its start; it must be able to return there.
        reading: the user's options for reading.

    Raises:
        InputError: the file cannot be read; see `tsjax.jobs.input.formats.recognise`.
        MissingExtraError: the file is compressed with zstd and the package zstandard is not installed.
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
    """Return the error for an input that does not exist.

    Args:
        name: a path, a URL or a pattern, as the user gave it.
    """
    return InputError(f"no file matches {name}" if glob.has_magic(name) else f"there is no file {name}")


@contextlib.contextmanager
def _reading(url: str) -> Iterator[None]:
    """Turn the errors of a file system or a store into an InputError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise _no_such_file(url) from error
    except OSError as error:
        raise InputError(f"cannot read {url}: {reason(error)}") from error
    except TsjaxError:
        raise
    except Exception as error:
        if not is_url(url):
            raise
        # The packages of stores have their own exceptions for credentials, networks and limits.
        raise InputError(f"cannot read {url}: {type(error).__name__}: {error}") from error


def _beginning(url: str, size: int) -> BinaryIO:
    """Open a file to read its first bytes; from a store, little more than these is fetched."""
    return cast("BinaryIO", _Fetched(url, size)) if is_url(url) else open_raw(url)


class _Fetched(io.RawIOBase):
    """A file of a store, fetched from its start in growing pieces.

    The first piece has `HEAD` bytes. Each further piece is as large as all pieces before it.

    Args:
        url: location of the file.
        size: size in bytes.
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
    """Return the first bytes of compressed data that can be decompressed; damage is reported when rows are read."""
    read = getattr(stream, "read1", stream.read)  # reads one block, which is not lost if the next one is damaged
    head = b""
    try:
        while len(head) < HEAD and (block := read(min(1 << 12, HEAD - len(head)))):
            head += block
    except InputError:  # from a store that does not answer, which is not damage
        raise
    except Exception:  # zlib, lzma and zstandard each have their own types
        return head
    return head


def _partitions(url: str, columns: Collection[str]) -> tuple[tuple[str, str | None], ...]:
    """Return the columns of a path as Hive and Spark write them: ``lang=en/``, percent-encoded."""
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
    """Tell whether a name has a scheme and is therefore opened by fsspec."""
    return "://" in path


def absolute(path: str) -> str:
    """Return the absolute path of a path, or a URL unchanged."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100


def open_raw(url: str) -> BinaryIO:
    """Open the stored bytes of a file as a seekable stream.

    Raises:
        InputError: the file cannot be opened.
        MissingExtraError: fsspec, or the package of a URL's store, is not installed.
    """
    with _reading(url):
        return cast("BinaryIO", _file_system(url).open(url, "rb")) if is_url(url) else Path(url).open("rb")


def unpacked(raw: BinaryIO, compression: Compression | None, encoding: str | None = None) -> BinaryIO:
    """Return a stream of a file's decompressed bytes, with text as UTF-8.

    Raises:
        MissingExtraError: the file is compressed with zstd and the package zstandard is not installed.
    """
    stream = _unpacking(raw, compression)
    if encoding is not None:
        stream = _AsUtf8(stream, encoding)
    if isinstance(stream, io.BufferedReader):
        return stream
    # The file objects of stores split lines themselves, many times more slowly.
    return cast("BinaryIO", io.BufferedReader(stream, _BUFFER))


def _unpacking(raw: BinaryIO, compression: Compression | None) -> Any:
    """Return a stream of a file's decompressed bytes, decompressed lazily; raise the errors of `unpacked`."""
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
    """Yield the lines of a text with their line ends, without a byte order mark; none if there is only the mark."""
    lines = iter(stream)
    if first := next(lines, b"").removeprefix(codecs.BOM_UTF8):
        yield first
    yield from lines


class _AsUtf8(io.RawIOBase):
    """A stream that converts text of another encoding to UTF-8; undecodable bytes raise a ValueError."""

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
    """A wrapper of a stream that can be read only once; it can return to its start until it is released.

    Args:
        stream: the stream, such as a pipe or standard input.
        closes: whether to close the stream together with this object: true for a pipe, false for standard input.
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
        """Return 0, since the position is not known."""
        return 0

    def close(self) -> None:
        if self._closes:
            self._stream.close()
        super().close()

    def release(self) -> BinaryIO:
        """Return the stream from its start; the bytes are no longer kept for another return."""
        self._looking, self._place = False, 0
        return cast("BinaryIO", self)


class _Frames(io.RawIOBase):
    """A stream of the decompressed bytes of a compressed file, frame after frame.

    Unlike the streams of the compression libraries, it raises an error if the file was cut, and if other bytes than a
    frame follow a frame, since these may have been rows.

    Args:
        raw: the compressed file.
        begin: function that returns a decompressor for one frame.
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
        return [expanded]  # also if its name contains a bracket
    if Path(expanded).is_dir():
        raise InputError(f"{pattern} is a folder; name its files, such as '{pattern.rstrip('/')}/*.jsonl'")
    found = sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207
    files = [path for path in found if Path(path).is_file()]
    # Pipes and other special files are ignored without a warning.
    others = {path: Path(path).is_dir() for path in found if Path(path).is_dir() or not Path(path).exists()}
    _tell_others(pattern, files, others)
    return files


def _remote_matches(pattern: str) -> list[str]:
    system = _file_system(pattern)
    scheme = pattern.split("://", maxsplit=1)[0]
    with _reading(pattern):
        # A file is taken by its exact name, also if this contains a bracket.
        plain = not glob.has_magic(pattern) or _kind(system, pattern) == "file"
        found = [pattern] if plain else sorted(system.glob(pattern))
        kinds = {path: _kind(system, path) for path in found}
    files = [path for path in found if kinds[path] == "file"]
    others = {path: True for path in found if kinds[path] == "directory"}
    files = [_with_scheme(path, scheme) for path in files]
    _tell_others(pattern, files, {_with_scheme(path, scheme): folder for path, folder in others.items()})
    return files


def _kind(system: Any, path: str) -> str | None:
    """Return "file", "directory", or None if a path does not exist.

    `isfile` of fsspec is not used, because it also returns False if the store could not be read.
    """
    try:
        return cast("str", system.info(path)["type"])
    except FileNotFoundError:
        return None


def _with_scheme(path: str, scheme: str) -> str:
    return path if is_url(path) else f"{scheme}://{path}"


def _tell_others(pattern: str, files: Sequence[str], others: Mapping[str, bool]) -> None:
    """Warn of matches of a pattern that are not files, unless the pattern also matches files in them.

    Folders that only ``*`` matches and whose names have no suffix of an input file cause no warning: the user does not
    mean them.

    Args:
        pattern: a pattern with or without wildcards.
        files: the files that match, sorted.
        others: the other matches, with true for folders.

    Raises:
        InputError: the pattern matches no files.
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
    """Tell whether a match that is no file looks like an intended input although nothing in it is read."""
    inside = f"{path.rstrip('/')}/"
    place = bisect.bisect(files, inside)
    if place < len(files) and files[place].startswith(inside):
        return False
    return bool(pattern.rstrip("/").rpartition("/")[2].strip("*?")) or has_input_suffix(path.rstrip("/"))


def _facts(url: str) -> tuple[int, str]:
    """Return the size and the version of a file."""
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
    """Return the same files with digests of their content."""
    most = max(_HASHED_BYTES // len(sources), _LEAST_HASHED_BYTES)
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        digests = pool.map(lambda source: _digest(source, most), sources)
        return tuple(
            replace(source, digest=digest, hashed_whole=source.size <= most)
            for source, digest in zip(sources, digests, strict=True)
        )


def _digest(source: Source, most: int) -> str:
    """Return the SHA-256 of a file of at most ``most`` bytes, or of evenly spaced samples of a larger file.

    The samples include the first and the last bytes of the file.
    """
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
    except ImportError as error:  # the message names the package that the store needs
        raise MissingExtraError(f"{url}: {error}") from error
    except ValueError as error:
        raise InputError(f"{url}: {error}") from error
    return system


def _names(urls: Sequence[str]) -> list[str]:
    """Return each path relative to the folder that all paths share."""
    whole = [url if is_url(url) else Path(absolute(url)).as_posix() for url in urls]
    parts = [path.split("/") for path in whole]
    common = os.path.commonprefix([path[:-1] for path in parts])  # noqa: RUF071  # of lists, which it compares by item
    return ["/".join(path[len(common) :]) for path in parts]
