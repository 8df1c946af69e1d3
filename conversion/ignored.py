"""Weights that a user excludes from a conversion, by patterns of their names."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tsjax.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from conversion.source import Tensors


class IgnoredWeights:
    """The weights that one conversion excludes, from any of its files.

    Args:
        patterns: `fnmatch` patterns of names in the files, for instance ``classifier.*``.
    """

    def __init__(self, patterns: Collection[str]) -> None:
        self._patterns = tuple(patterns)
        self._idle = set(patterns)

    def without(self, tensors: Tensors) -> Tensors:
        """Return the tensors of a file that no pattern matches."""
        kept = {}
        for name, read in tensors.read.items():
            matching = {pattern for pattern in self._patterns if fnmatchcase(name, pattern)}
            self._idle -= matching
            if not matching:
                kept[name] = read
        return replace(tensors, read=kept)

    def check(self, source: Path) -> None:
        """Raise a ConversionError if a pattern has matched no weight. Call this after all files have been read."""
        if self._idle:
            raise ConversionError(f"{source} has no weight that matches {min(self._idle)!r}, which was to be ignored")
