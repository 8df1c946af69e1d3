"""Compile cache: programs that XLA compiled are kept on disk, so that the next process does not compile them again.

This module only chooses and checks the directory, and tells JAX about it. The directory must be writable only by its
owner, because JAX executes cached programs without checking them.
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

# By default JAX keeps no program that compiled in less than a second, and has no size limit; most programs of tsjax
# take less.
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": 256 * 2**20,
}

# Fields of /proc/cpuinfo that identify the kind of CPU, on x86 and on Arm.
_KIND = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "flags"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"}
)


def enable_compile_cache(directory: str | os.PathLike[str] | None = None) -> str:
    """Keep compiled programs on disk for later processes; call it before anything is compiled.

    tsjax never does this by itself; the command line does, unless told not to. Up to 256 MiB are kept, and the least
    recently used programs are removed first. Any number of processes may share the directory, and it may be deleted at
    any time. A setting of JAX that an environment variable gives, such as JAX_COMPILATION_CACHE_MAX_SIZE, is not
    changed.

    Args:
        directory: a directory on a local file system, created if it does not exist, for its owner only; it has a folder
            for each kind of CPU. None for the directory that JAX has been told to use (JAX_COMPILATION_CACHE_DIR), with
            its settings unchanged, or else for ``compiled`` in tsjax's cache directory.

    Returns:
        the directory that JAX now uses.

    Raises:
        InputError: it is not a directory on a local file system.
        OutputError: it cannot be written, or others can write it: it belongs to another user, is a symbolic link, its
            permissions let others write, or any user may replace it in a parent directory.
    """
    if "JAX_ENABLE_COMPILATION_CACHE" not in os.environ:
        _tell_jax("jax_enable_compilation_cache", True)  # `disable_compile_cache` may have been called before
    told = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if directory is None and told:
        return str(told)
    chosen = cache_directory() / "compiled" if directory is None else _local(directory)
    chosen = chosen.absolute()  # a relative path would follow the process's working directory
    folder = chosen / _processor()
    for path in (chosen, folder):
        _make_private(path)
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            _tell_jax(name, value)
    # Without a size limit JAX records no times of use, and a program without such a time is not half written.
    bounded = jax.config.jax_compilation_cache_max_size > -1  # type: ignore[attr-defined]
    _remove_remains(folder, bounded=bounded)
    _tell_jax("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # otherwise JAX does not read its settings again
    return str(folder)


def disable_compile_cache() -> None:
    """Disable the compile cache: neither keep programs nor use kept ones, in any directory that JAX was told to use."""
    _tell_jax("jax_enable_compilation_cache", False)


def _tell_jax(name: str, value: object) -> None:
    jax.config.update(name, value)  # type: ignore[no-untyped-call]


def _local(directory: str | os.PathLike[str]) -> Path:
    if not isinstance(directory, str | os.PathLike) or "://" in (text := os.fspath(directory)) or "\0" in text:
        raise InputError(f"compiled programs are kept in a directory on a local file system, not in {directory!r}")
    return expanded(text)


def _processor() -> str:
    """Return a name for this kind of CPU.

    XLA compiles for the exact CPU on which it runs. If another CPU compiled a program, JAX loads it with at most a
    message in the log. In a home directory that several machines share, such a program could stop at an illegal
    instruction.
    """
    facts = []
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in itertools.takewhile(str.strip, lines):  # the first CPU, up to an empty line
            name, _, value = line.partition(":")
            if name.strip() in _KIND:
                facts.append(value.strip())
    return f"{platform.machine() or 'unknown'}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"


def _make_private(path: Path) -> None:
    """Create a directory that only its owner can write, or check that an existing one is like that."""
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
    """Remove programs that an interrupted process left half written; JAX would neither use nor rewrite them.

    JAX holds this lock while it writes a program and then, next to it, the time of its last use. Taking the lock also
    detects a directory that cannot be written.
    """
    with explaining(folder):
        try:
            with filelock.FileLock(folder / ".lockfile", timeout=10):
                for program in folder.glob("*-cache") if bounded else ():
                    if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
                        program.unlink(missing_ok=True)
        except filelock.Timeout:
            pass  # other processes hold the lock; JAX waits as long
        except NotImplementedError as error:
            raise OutputError(
                f"the file system of {folder} has no locks, which keeping programs there needs"
            ) from error
