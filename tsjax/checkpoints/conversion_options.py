"""What can be chosen when a checkpoint is converted; nothing here reads one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, TypedDict, get_args

from tsjax.checkpoints.format import Kind
from tsjax.errors import InputError
from tsjax.validation.numbers import check_whole_fields

if TYPE_CHECKING:
    import os
    from collections.abc import Collection
    from typing import Unpack

# Models of which nothing in config.json says that short texts use every n-th row of the position table, by the last
# part of their names (LongEmbed, arXiv:2404.12096).
_STRIDES = {"e5-base-4k": 8}

# Models whose prompt is left out of the pooling, which sentence-transformers knows by their names alone.
INSTRUCTORS = frozenset(f"hkunlp/instructor-{size}" for size in ("base", "large", "xl"))


class ConversionOptions(TypedDict, total=False):
    """The keywords of `Options`, but for the kind, as a user gives them."""

    ignore_config_fields: Collection[str]
    adapter: str | None
    position_stride: int | None
    ignore_weights: Collection[str]


class HubOptions(TypedDict, total=False):
    """Keywords that say which files of a repository on the hub to read, and how.

    Attributes:
        revision: branch, tag or commit.
        local_files_only: never use the network (as does the environment variable ``HF_HUB_OFFLINE=1``).
        token: of a user of the hub; True for the one that ``hf auth login`` stored, False for none, None for what
            huggingface_hub does by itself.
        cache_folder: directory for the downloaded files; None for the hub's own cache.
    """

    revision: str | None
    local_files_only: bool
    token: str | bool | None
    cache_folder: str | os.PathLike[str] | None


class SourceOptions(HubOptions, ConversionOptions, total=False):
    """Every keyword that decides what a model's name leads to, but for the kind."""


@dataclass(frozen=True)
class Options:
    """How to convert a checkpoint.

    Attributes:
        ignore_config_fields: names of config fields to accept although tsjax does not know them.
        adapter: which of a checkpoint's task adapters to merge; None for none.
        position_stride: rows of the position table from one token to the next, in texts that are short enough; None
            for what the model is known for, usually 1.
        ignore_weights: patterns (as of `fnmatch`) of names of weights to leave out, such as ``classifier.*``.
        kind: what to make of it: an embedder, also of a checkpoint with a classifier, or a cross-encoder; None for a
            cross-encoder where there is a classifier and no pooling.

    Raises:
        InputError: an adapter or a pattern that is no name, a kind that does not exist, or a stride that is no whole
            number of at least 1.
    """

    ignore_config_fields: tuple[str, ...] = ()
    adapter: str | None = None
    position_stride: int | None = None
    ignore_weights: tuple[str, ...] = ()
    kind: Kind | None = None

    @classmethod
    def of(cls, kind: Kind | None = None, **given: Unpack[ConversionOptions]) -> Options:
        """Return the options that a user gives, of any collections."""
        fields, weights = given.get("ignore_config_fields", ()), given.get("ignore_weights", ())
        for name, value in {"ignore_config_fields": fields, "ignore_weights": weights}.items():
            if isinstance(value, str) or not all(isinstance(one, str) and one for one in value):
                raise InputError(f"{name} must be a list of names, not {value!r}")
        return cls(tuple(fields), given.get("adapter"), given.get("position_stride"), tuple(weights), kind)

    def __post_init__(self) -> None:
        if self.adapter is not None and not (isinstance(self.adapter, str) and self.adapter):
            raise InputError(f"adapter must be a name, not {self.adapter!r}")
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
