"""Keeping the programs that XLA compiled, so that the next process does not compile them again.

This only chooses and checks the place, and tells JAX. What is kept is machine code that JAX runs as it finds it, so the
place is private: who can write there can run what he likes in the name of whoever reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import stat
from pathlib import Path

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from tsjax.errors import InputError, OutputError
from tsjax.storage.atomic import expanded, explaining
from tsjax.storage.cache_directory import cache_directory

# JAX keeps nothing that compiled in less than a second, and has no bound; most of our programs take less.
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": 256 * 2**20,
}

# What /proc/cpuinfo says of a processor's kind, on x86 and on Arm.
_KIND = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "flags"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"}
)


def enable_compile_cache(directory: str | os.PathLike[str] | None = None) -> str:
    """Keep compiled programs on disk, for the next process that needs them; call it before anything is compiled.

    tsjax never does so by itself; the command line does, unless told not to. Up to 256 MiB are kept, and what was not
    used for longest goes first. Any number of processes may share the directory, and it may be deleted at any time.
    A setting of JAX's that an environment variable gives, such as JAX_COMPILATION_CACHE_MAX_SIZE, stays as it is.

    Args:
        directory: on a local file system, made if it does not exist, for its owner alone; inside it is a folder for
            each kind of processor. None for the one that JAX has been told to use (JAX_COMPILATION_CACHE_DIR), with
            its settings left alone, or else for ``compiled`` in tsjax's cache directory.

    Returns:
        the directory that JAX now uses.

    Raises:
        InputError: it is no directory on a local file system.
        OutputError: it cannot be written, or others can: it belongs to someone else, is a symbolic link, its
            permissions let others write, or anyone may replace it in a directory above.
    """
    if "JAX_ENABLE_COMPILATION_CACHE" not in os.environ:
        _tell_jax("jax_enable_compilation_cache", True)  # `disable_compile_cache` may have been called before
    told = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if directory is None and told:
        return str(told)
    chosen = cache_directory() / "compiled" if directory is None else _local(directory)
    chosen = chosen.absolute()  # a relative one would move with the process's working directory
    folder = chosen / _processor()
    for path in (chosen, folder):
        _make_private(path)
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            _tell_jax(name, value)
    # Without a bound JAX keeps no times of use, and a program without one is not half written.
    bounded = jax.config.jax_compilation_cache_max_size > -1  # type: ignore[attr-defined]
    _remove_remains(folder, bounded=bounded)
    _tell_jax("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX does not look at its settings again otherwise
    return str(folder)


def disable_compile_cache() -> None:
    """Neither keep programs nor use kept ones, wherever JAX was told to keep them."""
    _tell_jax("jax_enable_compilation_cache", False)


def _tell_jax(name: str, value: object) -> None:
    jax.config.update(name, value)  # type: ignore[no-untyped-call]


def _local(directory: str | os.PathLike[str]) -> Path:
    if not isinstance(directory, str | os.PathLike) or "://" in (text := os.fspath(directory)) or "\0" in text:
        raise InputError(f"compiled programs are kept in a directory on a local file system, not in {directory!r}")
    return expanded(text)


def _processor() -> str:
    """A name for this kind of processor.

    XLA compiles for the very processor it runs on, and loads what another compiled with a message in the log at most:
    in a home directory that several machines share, the wrong one would stop at an illegal instruction.
    """
    facts = []
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in itertools.takewhile(str.strip, lines):  # the first processor, up to an empty line
            name, _, value = line.partition(":")
            if name.strip() in _KIND:
                facts.append(value.strip())
    return f"{platform.machine() or 'unknown'}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def _make_private(path: Path) -> None:
    """Make a directory that only its owner can write, or check that one is like that."""
    with explaining(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise OutputError(f"{path} is a symbolic link; compiled programs need a directory of their own")
        if found.st_uid != os.getuid():
            raise OutputError(f"{path} belongs to another user, who could change the programs kept in it")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OutputError(f"others can write in {path} and change the programs kept in it; chmod 700 mends it")
        for above in path.resolve().parents:
            mode = above.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise OutputError(f"anyone can write in {above}, and so replace {path}, where programs would be kept")


def _remove_remains(folder: Path, *, bounded: bool) -> None:
    """Remove what an interrupted process left half written; JAX would neither use it nor write it again.

    JAX holds this lock while it writes a program and then, beside it, the time of its last use. It is also how a
    directory that cannot be written is found out.
    """
    with explaining(folder):
        try:
            with filelock.FileLock(folder / ".lockfile", timeout=10):
                for program in folder.glob("*-cache") if bounded else ():
                    if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                        program.unlink(missing_ok=True)
        except filelock.Timeout:
            pass  # others are busy with it; JAX waits as long
        except NotImplementedError as error:
            raise OutputError(
                f"the file system of {folder} has no locks, which keeping programs there needs"
            ) from error
