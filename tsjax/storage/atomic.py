"""Atomic writes: afterwards either the complete new content or the old state is there, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tsjax.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


def expanded(path: str | os.PathLike[str], remedy: str = "give the whole path") -> Path:
    """Return a path with ``~`` expanded to the home directory.

    Args:
        path: path of an existing file or of one to be written.
        remedy: advice for the error, if the home directory is unknown.

    Raises:
        InputError: the path begins with an unknown home directory, so that a folder named ``~`` would be made.
    """
    text = os.path.expanduser(os.fspath(path))
    if text == "~" or (text.startswith("~") and "/" in text):
        home = text.split("/", maxsplit=1)[0]
        raise InputError(f"{path}: there is no home directory {home} (HOME is not set to one); {remedy}")
    return Path(text)


@contextlib.contextmanager
def replacing(destination: Path, *, directory: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to ``destination``, and move it to the destination if the block succeeds.

    If the block raises, also on an interrupt, the temporary path is removed and the destination is unchanged.

    Raises:
        InputError: the destination begins with an unknown home directory.
        OutputError: the destination exists and ``overwrite`` is False, or it cannot be written (a full disk, no
            permission); the message names the destination.
    """
    destination = expanded(destination)
    check_absent(destination, directory=directory, overwrite=overwrite)
    holder = None
    try:
        with explaining(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
            prefix, suffix = f".{destination.name}.", ".partial"
            holder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=destination.parent))
            temporary = holder / destination.name
            if directory:
                temporary.mkdir()
            yield temporary
            _publish(temporary, destination, overwrite=overwrite)
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)


@contextlib.contextmanager
def publishing(destination: Path, partial: Path) -> Iterator[Path]:
    """Yield a path in the folder ``partial``, and move that file over ``destination`` if the block succeeds.

    Unlike `replacing`, this makes no folder; the file of a block that fails or is killed stays in ``partial``.

    Raises:
        OutputError: the file cannot be written.
    """
    with explaining(destination):
        temporary = partial / destination.name
        yield temporary
        _publish(temporary, destination, overwrite=True)


@contextlib.contextmanager
def publishing_text(destination: Path, partial: Path) -> Iterator[TextIO]:
    """Yield a text file, open for writing, that `publishing` moves to its destination."""
    with publishing(destination, partial) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def _publish(temporary: Path, destination: Path, *, overwrite: bool) -> None:
    """Move finished content to its destination, and sync it; first move an existing directory next to ``temporary``."""
    replaced = temporary.with_name(f"{temporary.name}.replaced")
    _sync_all(temporary)
    if temporary.is_dir():
        try:
            if overwrite and destination.exists():
                destination.rename(replaced)
            temporary.rename(destination)
        finally:
            if replaced.exists() and not destination.exists():
                replaced.rename(destination)
    elif overwrite:
        temporary.replace(destination)
    else:
        try:
            # Unlike a rename, a link never replaces a file that another process has put there meanwhile.
            destination.hardlink_to(temporary)
        except OSError:  # the destination exists, or the file system has no links
            check_absent(destination, overwrite=False)
            temporary.rename(destination)
    sync(destination.parent)


def check_absent(path: Path, *, directory: bool = False, overwrite: bool | None) -> None:
    """Raise an OutputError if the path holds something that a file (or directory) may not overwrite.

    ``overwrite`` is None if the caller has no option for it.
    """
    path = expanded(path)
    if not directory and path.is_dir():
        raise OutputError(f"{path} exists already and is a directory; choose another name")
    if not overwrite and (path.exists() or path.is_symlink()):
        how = "" if overwrite is None else " or overwrite it (--overwrite)"
        raise OutputError(f"{path} exists already; choose another name{how}")


@contextlib.contextmanager
def explaining(destination: Path) -> Iterator[None]:
    """Turn errors of the operating system about a file being written into an OutputError that names it."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise OutputError(f"cannot write {destination}: {reason}") from error


def _sync_all(path: Path) -> None:
    """Sync a file, or every file below a directory, to the disk, so that a rename never outlives its content."""
    if path.is_dir():
        for child in path.iterdir():
            _sync_all(child)
    sync(path)


def sync(path: Path) -> None:
    """Sync a file, or a directory's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
