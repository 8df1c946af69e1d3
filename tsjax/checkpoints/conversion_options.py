"""What can be chosen when a checkpoint is converted; nothing here reads one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, get_args

from tsjax.checkpoints.format import Kind
from tsjax.errors import InputError
from tsjax.validation import check_whole_fields

if TYPE_CHECKING:
    from collections.abc import Collection

# Models of which nothing in config.json says that short texts use every n-th row of the position table, by the last
# part of their names (LongEmbed, arXiv:2404.12096).
_STRIDES = {"e5-base-4k": 8}

# Models whose prompt is left out of the pooling, which sentence-transformers knows by their names alone.
INSTRUCTORS = frozenset(f"hkunlp/instructor-{size}" for size in ("base", "large", "xl"))


@dataclass(frozen=True)
class Options:
    """How to convert a checkpoint.

    Attributes:
        ignore_config_fields: names of config fields to wave through although nobody here knows them.
        task: which of a checkpoint's task adapters to merge; None for none.
        position_stride: rows of the position table from one token to the next, in texts that are short enough; None
            for what the model is known for, usually 1.
        ignore_weights: patterns (as of `fnmatch`) of names of weights to leave out, such as ``classifier.*``.
        kind: what to make of it: an embedder, also of a checkpoint with a classifier, or a cross-encoder; None for a
            cross-encoder where there is a classifier and no pooling.

    Raises:
        InputError: a task or a pattern that is no name, a kind that does not exist, or a stride that is no whole number
            of at least 1.
    """

    ignore_config_fields: tuple[str, ...] = ()
    task: str | None = None
    position_stride: int | None = None
    ignore_weights: tuple[str, ...] = ()
    kind: Kind | None = None

    @classmethod
    def of(
        cls,
        ignore_config_fields: Collection[str] = (),
        task: str | None = None,
        position_stride: int | None = None,
        ignore_weights: Collection[str] = (),
        kind: Kind | None = None,
    ) -> Options:
        """Return the options that a user gives, of whatever collections."""
        for name, value in {"ignore_config_fields": ignore_config_fields, "ignore_weights": ignore_weights}.items():
            if isinstance(value, str) or not all(isinstance(one, str) and one for one in value):
                raise InputError(f"{name} must be a list of names, not {value!r}")
        return cls(tuple(ignore_config_fields), task, position_stride, tuple(ignore_weights), kind)

    def __post_init__(self) -> None:
        if self.task is not None and not (isinstance(self.task, str) and self.task):
            raise InputError(f"a task is a name, not {self.task!r}")
        if self.kind not in (None, *get_args(Kind)):
            raise InputError(f"kind {self.kind!r} does not exist; it can be {' or '.join(get_args(Kind))}")
        if self.position_stride is not None:
            check_whole_fields(self, "position_stride")

    def for_source(self, *names: str) -> Options:
        """The same, with the stride that a model of one of these names is known for, unless one was asked for."""
        if self.position_stride is not None:
            return self
        last = (PurePath(name).name.lower() for name in names)
        return replace(self, position_stride=next((_STRIDES[name] for name in last if name in _STRIDES), 1))
