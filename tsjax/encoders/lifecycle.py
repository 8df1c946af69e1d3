"""Pickling, copying and closing of encoders.

A pickle holds the directory of the checkpoint and the settings, not the weights. A copy shares the parameters in
memory, which are never modified, and has settings, statistics and threads of its own.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tsjax.checkpoints.format import read_header
from tsjax.engine.devices import find_devices
from tsjax.engine.forks import check_not_forked
from tsjax.errors import CheckpointError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from tsjax.checkpoints.format import Header
    from tsjax.engine.engine import Engine

# Attributes that are made from the directory and never change.
_OF_THE_DIRECTORY = frozenset({"_header", "_config", "_tokenizer"})


class Lifecycle:
    """Base of `Embedder` and `CrossEncoder`: closing, copying and pickling."""

    _engine: Engine
    _header: Header
    _tokenizer: Any

    def close(self) -> None:
        """End the threads and free the parameters, unless a copy shares them; a second call does nothing.

        Calls that other threads have begun are finished. Afterwards every computation raises a `tsjax.LifecycleError`;
        settings and statistics can still be read. ``with`` closes the encoder at its end. The threads of an encoder
        that is garbage collected end too.
        """
        self._engine.close()

    def __enter__(self) -> Self:
        self._engine.check_open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self._copied({}, lambda value: dict(value) if isinstance(value, dict) else value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copied(memo, lambda value: copy.deepcopy(value, memo))

    def _copied(self, memo: dict[int, Any], setting: Callable[[Any], Any]) -> Self:
        other = memo[id(self)] = object.__new__(type(self))
        other._engine = self._engine.copy()
        for name, value in self.__dict__.items():
            if name != "_engine":
                other.__dict__[name] = value if name in _OF_THE_DIRECTORY else setting(value)
        return other

    def __getstate__(self) -> dict[str, Any]:
        self._engine.check_open()
        left_out = _OF_THE_DIRECTORY | {"_engine"}
        return {
            "directory": str(self._header.path),
            "fingerprint": self._header.fingerprint,
            "options": {**self._engine.options, "max_seq_length": self._tokenizer.max_length},
            "settings": {name: value for name, value in self.__dict__.items() if name not in left_out},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        check_not_forked()
        directory = Path(state["directory"])
        if not directory.is_dir():
            raise CheckpointError(
                f"the model was pickled with its directory {directory}, which does not exist here: another machine "
                "needs the same directory (tsjax convert writes one anywhere), or loads the model by its name"
            )
        if read_header(directory).fingerprint != state["fingerprint"]:
            raise CheckpointError(
                f"{directory} does not hold the model that was pickled: its fingerprint differs; load it anew"
            )
        options = state["options"]
        if isinstance(options["devices"], list):
            options = {**options, "devices": find_devices(options["devices"])}
        self._load(directory, **options)
        self.__dict__.update(state["settings"])

    def _load(self, directory: str | os.PathLike[str], **options: Any) -> None:
        """Initialise as the class that tsjax defines, whatever arguments a subclass takes."""
        raise NotImplementedError
