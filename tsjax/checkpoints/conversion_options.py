"""Options of a checkpoint's conversion; nothing here reads a checkpoint."""

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

# Position strides by the last part of a model's name: short texts use every n-th row of the position table, and
# config.json does not say so (LongEmbed, arXiv:2404.12096).
_STRIDES = {"e5-base-4k": 8}

# Models whose prompt is excluded from pooling, which sentence-transformers knows only by their names.
INSTRUCTORS = frozenset(f"hkunlp/instructor-{size}" for size in ("base", "large", "xl"))


class ConversionOptions(TypedDict, total=False):
    """Keywords of `Options`, except the kind, as a user gives them."""

    ignore_config_fields: Collection[str]
    adapter: str | None
    position_stride: int | None
    ignore_weights: Collection[str]


class HubOptions(TypedDict, total=False):
    """Keywords of the download of files from a hub repository.

    Attributes:
        revision: branch, tag or commit.
        local_files_only: never use the network (as does the environment variable ``HF_HUB_OFFLINE=1``).
        token: access token of a user of the hub; True for the one that ``hf auth login`` stored, False for none, None
            for the default of huggingface_hub.
        cache_folder: directory for the downloaded files; None for the hub's own cache.
    """

    revision: str | None
    local_files_only: bool
    token: str | bool | None
    cache_folder: str | os.PathLike[str] | None


class SourceOptions(HubOptions, ConversionOptions, total=False):
    """Keywords that determine the checkpoint of a model's name, except the kind."""


@dataclass(frozen=True)
class Options:
    """Options of a checkpoint's conversion.

    Attributes:
        ignore_config_fields: names of config fields to accept although tsjax does not know them.
        adapter: name of the task adapter to merge; None for none.
        position_stride: rows of the position table from one token to the next, in texts that are short enough; None for
            the model's known value, usually 1.
        ignore_weights: patterns (as of `fnmatch`) of names of weights to leave out, such as ``classifier.*``.
        kind: an embedder (also from a checkpoint with a classifier) or a cross-encoder; None for a cross-encoder if the
            checkpoint has a classifier and no pooling.

    Raises:
        InputError: an adapter or a pattern is not a name, the kind does not exist, or the stride is not a whole number
            of at least 1.
    """

    ignore_config_fields: tuple[str, ...] = ()
    adapter: str | None = None
    position_stride: int | None = None
    ignore_weights: tuple[str, ...] = ()
    kind: Kind | None = None

    @classmethod
    def of(cls, kind: Kind | None = None, **given: Unpack[ConversionOptions]) -> Options:
        """Return the options that a user gives, in any collections."""
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
        """Return the options with the known stride of a model of one of these names, unless a stride was given."""
        if self.position_stride is not None:
            return self
        last = (PurePath(name).name.lower() for name in names)
        return replace(self, position_stride=next((_STRIDES[name] for name in last if name in _STRIDES), 1))
