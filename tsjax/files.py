"""Writing that leaves either the whole new thing or the old state, never half of something."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tsjax.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(destination: Path, *, directory: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside ``destination`` that takes its place when the block ends well.

    If the block raises, also on an interrupt, the temporary path is removed and the destination is as it was.

    Raises:
        OutputError: the destination exists and ``overwrite`` is False, or it cannot be written (a full disk, no
            permission); the message names the destination.
    """
    check_absent(destination, overwrite=overwrite)
    with explaining(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent))
    temporary = holder / destination.name
    try:
        with explaining(destination):
            if directory:
                temporary.mkdir()
            yield temporary
            _sync(temporary)
            if directory and destination.exists():
                check_absent(destination, overwrite=overwrite)
                destination.rename(holder / "replaced")
            temporary.rename(destination)
            _sync_one(destination.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def check_absent(path: Path, *, overwrite: bool) -> None:
    """Raise an OutputError if there is something at the path that may not be overwritten."""
    if not overwrite and (path.exists() or path.is_symlink()):
        raise OutputError(f"{path} exists already; choose another name or overwrite it (--overwrite)")


@contextlib.contextmanager
def explaining(destination: Path) -> Iterator[None]:
    """Turn what the operating system says about a file that we write into an OutputError naming it."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise OutputError(f"cannot write {destination}: {reason}") from error


def _sync(path: Path) -> None:
    """Force a file, or every file below a directory, to the disk, so that a rename never outlives its content."""
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
