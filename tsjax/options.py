"""What can be chosen when a checkpoint is converted; nothing here reads one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath

from tsjax.errors import InputError

# Models of which nothing in config.json says that short texts use every n-th row of the position table, by the last
# part of their names (LongEmbed, arXiv:2404.12096).
_STRIDES = {"e5-base-4k": 8}


@dataclass(frozen=True)
class Options:
    """How to convert a checkpoint.

    Attributes:
        ignore_config_fields: names of config fields to wave through although nobody here knows them.
        task: which of a checkpoint's task adapters to merge; None for none.
        position_stride: rows of the position table from one token to the next, in texts that are short enough; None
            for what the model is known for, usually 1.

    Raises:
        InputError: a task that is no name, or a stride that is no whole number of at least 1.
    """

    ignore_config_fields: tuple[str, ...] = ()
    task: str | None = None
    position_stride: int | None = None

    def __post_init__(self) -> None:
        if self.task is not None and not (isinstance(self.task, str) and self.task):
            raise InputError(f"a task is a name, not {self.task!r}")
        stride = self.position_stride
        if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 1):
            raise InputError(f"position_stride must be a whole number of at least 1, not {stride!r}")

    def for_source(self, *names: str) -> Options:
        """The same, with the stride that a model of one of these names is known for, unless one was asked for."""
        if self.position_stride is not None:
            return self
        last = (PurePath(name).name.lower() for name in names)
        return replace(self, position_stride=next((_STRIDES[name] for name in last if name in _STRIDES), 1))
