"""Which files a job reads, what they are known by, and how their bytes are opened.

Local files, or those of any store that fsspec knows (``gs://``, ``s3://``, …); plain, .gz or .zst. What the bytes say
is `tsjax.jobs.rows`' business.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, cast, get_args

from tsjax.errors import InputError, MissingExtraError
from tsjax.jobs.texts import InputFormat, format_of
from tsjax.text.unicode import lone_surrogate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Compression: TypeAlias = Literal["gzip", "zstd"]

_COMPRESSED: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
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
        digest: SHA-256 of its bytes as they are stored, or of samples of them.
        hashed_whole: whether the digest is of all bytes.
    """

    name: str
    url: str
    format: InputFormat
    compression: Compression | None
    size: int
    version: str
    digest: str = ""
    hashed_whole: bool = True

    def identity(self) -> dict[str, Any]:
        """What a manifest says of it: enough to see that it is another, wherever it lies, whenever it was written."""
        hashed = "sha256" if self.hashed_whole else "samples_sha256"
        return {"name": self.name, "format": self.format, "bytes": self.size, hashed: self.digest}

    def check_unchanged(self) -> None:
        """Raise an InputError if the file is no longer what it was when the job was planned."""
        if _facts(self.url) != (self.size, self.version):
            raise InputError(f"{self.url} was changed while it was read; start again when it is at rest")


def find_sources(
    patterns: Sequence[str],
    input_format: InputFormat | None = None,
    *,
    leave_out: Callable[[str, list[str]], list[str]] = lambda pattern, urls: urls,
) -> tuple[Source, ...]:
    """The files that the patterns name: in the patterns' order, and sorted within each.

    A file that is named twice, in whatever way, is there once.

    Args:
        patterns: paths or URLs, with ``*``, ``?``, ``[…]`` and ``**`` where several are meant.
        input_format: None goes by each file's suffix, before .gz or .zst: .jsonl, .ndjson, .csv, .tsv, .parquet, and
            lines of text for any other.
        leave_out: told a pattern and what it matches, gives the files that are meant; see `OutputFilter`.

    Raises:
        InputError: a pattern that no file matches, or one that is a folder; a file whose name is not UTF-8; two files
            that would have one name.
        MissingExtraError: a URL without fsspec, or without the package of its store.
    """
    if input_format is not None and input_format not in get_args(InputFormat):
        raise InputError(f"input format {input_format!r} does not exist; it can be {', '.join(get_args(InputFormat))}")
    found: dict[str, str] = {}
    for pattern in patterns:
        if not pattern:
            raise InputError("the name of an input is empty")
        for url in leave_out(pattern, _matches(pattern)):
            found.setdefault(url if is_url(url) else os.path.realpath(url), url)
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
    sources = []
    for url, name in zip(urls, names, strict=True):
        size, version = _facts(url)
        compression = _COMPRESSED.get(PurePosixPath(url).suffix.lower())
        plain = url[: -len(PurePosixPath(url).suffix)] if compression else url
        chosen = input_format or format_of(plain)
        if chosen == "parquet" and compression:
            raise InputError(f"{url}: Parquet is packed within; a packed Parquet file cannot be read in pieces")
        sources.append(Source(name, url, chosen, compression, size, version))
    return _with_digests(sources)


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
    try:
        if is_url(url):
            return cast("BinaryIO", _file_system(url).open(url, "rb"))
        return Path(url).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {url}: {error.strerror or error}") from error


def unpacked(raw: BinaryIO, compression: Compression | None) -> BinaryIO:
    """The bytes of a file as they were before it was packed.

    Raises:
        MissingExtraError: zstd without the package zstandard.
    """
    if compression == "gzip":
        return cast("BinaryIO", io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=raw)), _BUFFER))
    if compression == "zstd":
        try:
            import zstandard  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise MissingExtraError(".zst needs zstandard; install it with: pip install 'tsjax[batch]'") from error
        frames = _ZstdFrames(raw, zstandard.ZstdDecompressor())
        return cast("BinaryIO", io.BufferedReader(frames, _BUFFER))
    if isinstance(raw, io.BufferedReader):
        return raw
    # A store's file finds each line by itself, many times as slowly.
    return cast("BinaryIO", io.BufferedReader(cast("Any", raw), _BUFFER))


class _ZstdFrames(io.RawIOBase):
    """The bytes of a .zst file, frame after frame: unlike zstandard's own stream, an error where it was cut."""

    def __init__(self, raw: BinaryIO, decompressor: Any) -> None:
        self._raw, self._decompressor = raw, decompressor
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
            self._frame = self._frame or self._decompressor.decompressobj()
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
    found = sorted(path for path in glob.glob(expanded, recursive=True) if Path(path).is_file())  # noqa: PTH207
    if not found:
        raise InputError(f"no file matches {pattern}")
    return found


def _remote_matches(pattern: str) -> list[str]:
    system = _file_system(pattern)
    scheme = pattern.split("://", maxsplit=1)[0]
    try:
        # Also where its name has a bracket in it.
        plain = not glob.has_magic(pattern) or system.isfile(pattern)
        found = [pattern] if plain else sorted(system.glob(pattern))
        files = [path for path in found if system.isfile(path)]
    except OSError as error:
        raise InputError(f"cannot look for {pattern}: {error.strerror or error}") from error
    if not files:
        raise InputError(f"no file matches {pattern}")
    return [path if is_url(path) else f"{scheme}://{path}" for path in files]


def _facts(url: str) -> tuple[int, str]:
    """Size and version of a file."""
    try:
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
            return int(info["size"]), mark
        facts = Path(url).stat()
        return facts.st_size, f"mtime:{facts.st_mtime_ns}"
    except OSError as error:
        raise InputError(f"cannot read {url}: {error.strerror or error}") from error


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
    try:
        if is_url(source.url):
            system = _file_system(source.url)
            for start, end in spans:
                digest.update(system.cat_file(source.url, start=start, end=end))
        else:
            with open_raw(source.url) as raw:
                for start, end in spans:
                    raw.seek(start)
                    digest.update(raw.read(end - start))
    except OSError as error:
        raise InputError(f"cannot read {source.url}: {error.strerror or error}") from error
    return digest.hexdigest()


def _file_system(url: str) -> Any:
    try:
        import fsspec  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise MissingExtraError(f"{url} needs fsspec; install it with: pip install 'tsjax[batch]'") from error
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
