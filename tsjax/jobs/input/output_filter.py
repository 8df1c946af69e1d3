"""Filter that excludes files written by a job from the input, although they may match the input's pattern."""

from __future__ import annotations

import collections
import functools
import glob
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tsjax.errors import InputError
from tsjax.jobs.input.sources import is_url
from tsjax.jobs.output.directory import Output
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

_LOCAL_SCHEMES = ("file://", "local://")


class OutputFilter:
    """A filter for `find_sources` that excludes files of jobs' outputs and of LanceDB tables from pattern matches.

    Files of the job's own output are never input. Files of other outputs are input only if the pattern requests them:
    if it names the file itself, or lies within the output's folders before its first wildcard
    (``other/vectors/*.parquet``).

    Args:
        output: the job's own output, which need not exist yet.
        say: function that is called with a sentence for each output whose files are excluded.
    """

    def __init__(self, output: Output, say: Callable[[str], object] = lambda sentence: None) -> None:
        self._path, self._say = output.path, say
        self._own = [Output(path) for path in _spellings(str(output.path))]
        self._holds = functools.cache(_holds)

    def __call__(self, pattern: str, urls: list[str]) -> list[str]:
        """Return the files that match a pattern and are input.

        Raises:
            InputError: the pattern matches only files of outputs.
        """
        meant = _spellings(_before_wildcards(pattern))
        kept: list[str] = []
        left_out: collections.Counter[Path] = collections.Counter()
        for url in urls:
            if (folder := self._writer_of(_spellings(url), meant)) is None:
                kept.append(url)
            else:
                left_out[folder] += 1
        for folder, count in left_out.items():
            if not kept:
                raise InputError(f"{pattern} matches no file but {count:,} of {folder}, which a job of tsjax wrote")
            self._say(f"{pattern} matches {counted(count, 'file')} of {folder}, which a job wrote: left out")
        return kept

    def _writer_of(self, file: tuple[Path, ...], meant: tuple[Path, ...]) -> Path | None:
        """Return the output or table for which a file is excluded; None if the file is input."""
        if any(own.owns(path) for own in self._own for path in file):
            return self._path
        for folder in dict.fromkeys(itertools.chain.from_iterable(path.parents for path in file)):
            holds = self._holds(folder)
            if holds is not None and any(map(holds, file)) and not any(map(holds, meant)):
                return folder
        return None


def _holds(folder: Path) -> Callable[[Path], bool] | None:
    """Return a predicate for the paths that a job wrote into a folder; None if no job wrote into it."""
    if (output := Output(folder)).exists():
        return output.owns
    if folder.suffix == ".lance" and (folder / "_versions").is_dir():
        return lambda path: path.is_relative_to(folder)
    return None


def _spellings(path: str) -> tuple[Path, ...]:
    """Return a local path as absolute paths, with symbolic links and resolved; empty for a path in a store."""
    path = _without_local_scheme(path)
    if is_url(path):
        return ()
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100  # the path need not exist
    return tuple(dict.fromkeys([Path(path), Path(os.path.realpath(path))]))


def _before_wildcards(pattern: str) -> str:
    """Return the folders of a pattern before its first wildcard; the complete pattern if it has no wildcard."""
    plain = _without_local_scheme(pattern)
    if Path(os.path.expanduser(plain)).is_file():
        return plain  # also if its name contains a bracket
    before = list(itertools.takewhile(lambda part: not glob.has_magic(part), plain.split("/")))
    return "/" if before == [""] else "/".join(before) or "."


def _without_local_scheme(path: str) -> str:
    for scheme in _LOCAL_SCHEMES:
        path = path.removeprefix(scheme)
    return path
