"""SHA-256 of JSON values and of files, remembered for large files while their content is known to be unchanged.

A file's size and time of modification are poor evidence: both are constant in images of buildpacks or Bazel, and any
process can set the time. The time of the last change of its inode (ctime) cannot be set, so a digest is taken from
memory while ctime and all other cheap facts stay the same. The digest is computed each time if ctime is no evidence: in
an image where it is constant too (a whole second), and within seconds of a change, when another change may get the same
time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from tsjax.errors import ConversionError
from tsjax.storage.atomic import replacing
from tsjax.wording import reason

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable
    from pathlib import Path

# Files of up to this number of bytes are always read.
_SMALL = 1 << 20

# Content that is compared besides the facts: this number of blocks of this number of bytes, spread over the file.
_BLOCKS, _BLOCK = 16, 4096

# Nanoseconds after which another change of a file gets another ctime, on every file system with fractions of seconds.
_SETTLED = 2 * 10**9
_SECOND = 10**9


def json_sha256(value: Any, *, sort_keys: bool = True, compact: bool = False) -> str:
    """Return the SHA-256 of a JSON value, as hexadecimal digits.

    Args:
        value: any value that `json.dumps` takes.
        sort_keys: whether to ignore the order of names in objects.
        compact: whether to write the value without spaces. For each kind of value, existing digests on disk determine
            it.
    """
    text = json.dumps(value, sort_keys=sort_keys, separators=(",", ":") if compact else None)
    return hashlib.sha256(text.encode()).hexdigest()


def digests(files: Iterable[Path], memory: Path) -> list[str]:
    """Return the SHA-256 of each file, as hexadecimal digits.

    Args:
        files: files to read.
        memory: directory of remembered digests; if it cannot be written, this only costs time.

    Raises:
        ConversionError: a file cannot be read.
    """
    return [_digest(file, memory) for file in files]


def _digest(file: Path, memory: Path) -> str:
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= _SMALL:
                return hashlib.sha256(stream.read()).hexdigest()
            return _remembered(file, stream, memory)
    except OSError as error:
        raise ConversionError(f"{file} cannot be read: {reason(error)}") from error


def _remembered(file: Path, stream: io.BufferedReader, memory: Path) -> str:
    note = memory / f"{hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:32]}.json"
    facts = _facts(stream)
    credible = facts["ctime"] % _SECOND != 0
    if credible:
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            noted = json.loads(note.read_text(encoding="utf-8"))
            if noted["facts"] == facts:
                return str(noted["sha256"])
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    settled = time.time_ns() - max(facts["ctime"], facts["mtime"]) > _SETTLED
    if credible and settled and _facts(stream) == facts:
        with contextlib.suppress(OSError), replacing(note, overwrite=True) as temporary:
            temporary.write_text(json.dumps({"file": str(file), "facts": facts, "sha256": digest}), encoding="utf-8")
    return digest


def _facts(stream: io.BufferedReader) -> dict[str, Any]:
    """Return the facts to compare: cheap to read, and usually different if the content is."""
    found = os.fstat(stream.fileno())
    last = max(found.st_size - _BLOCK, 0)
    sample = hashlib.sha256()
    for number in range(_BLOCKS):
        stream.seek(last * number // (_BLOCKS - 1))
        sample.update(stream.read(_BLOCK))
    return {
        "size": found.st_size,
        "mtime": found.st_mtime_ns,
        "ctime": found.st_ctime_ns,
        "inode": found.st_ino,
        "sample": sample.hexdigest(),
    }
