"""SHA-256 of JSON values and of files, remembered for large files while nothing says that their content changed.

A file's size and time of modification say little: both are one constant in images of buildpacks or Bazel, and anyone
can set the latter. The time of the last change of its inode (ctime) cannot be set, so a digest is taken from memory
while ctime, and all else that is cheap to look at, stays. It is computed each time where ctime says nothing: in an
image where it is one constant, too (a whole second), and within seconds of a change, when another may have that time.
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

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable
    from pathlib import Path

# Files of up to so many bytes are always read.
_SMALL = 1 << 20

# What is compared besides the facts: so many blocks of so many bytes, spread over the file.
_BLOCKS, _BLOCK = 16, 4096

# Nanoseconds after which another change of a file has another ctime, on every file system that has fractions.
_SETTLED = 2 * 10**9
_SECOND = 10**9


def json_sha256(value: Any, *, sort_keys: bool = True, compact: bool = False) -> str:
    """Return the SHA-256 of a JSON value, as hexadecimal digits.

    Args:
        value: anything that `json.dumps` takes.
        sort_keys: whether the order of names in objects makes no difference.
        compact: whether the value is written without blanks. Digests that are on disk decide for each kind of value.
    """
    text = json.dumps(value, sort_keys=sort_keys, separators=(",", ":") if compact else None)
    return hashlib.sha256(text.encode()).hexdigest()


def digests(files: Iterable[Path], memory: Path) -> list[str]:
    """Return the SHA-256 of each file, as hexadecimal digits.

    Args:
        files: what to read.
        memory: a directory for what is remembered; one that cannot be written costs time only.

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
        raise ConversionError(f"{file} cannot be read: {error.strerror or error}") from error


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
    """Return what is compared: cheap to look at, and other as a rule where the content is."""
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
