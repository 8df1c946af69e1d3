"""Saved states of a run, stored by orbax, from which an interrupted run continues."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import jax

from tsjax.errors import CheckpointError, InputError, OutputError, require_optional
from tsjax.storage.atomic import replacing
from tsjax.storage.json_values import differences, read_object

if TYPE_CHECKING:
    from collections.abc import Iterator

RUN = "run.json"
_STATES = "states"

# Prefix of the files next to `RUN` that exist while it is written or while a process runs.
_OURS = f".{RUN}."


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        step: the number of optimizer steps so far.
        best_step: the step after which the validation loss was lowest; without validation, the last step.
        waited: the number of evaluations since then.
        curve: all evaluations on the validation pairs.
    """

    step: int = 0
    best_step: int = 0
    waited: int = 0
    curve: tuple[dict[str, float | None], ...] = ()

    def look(self, step: int, loss: float | None, validation_loss: float | None) -> Progress:
        """Return the progress with one more evaluation."""
        seen = [look["validation_loss"] for look in self.curve]
        better = validation_loss is None or all(loss is None or validation_loss < loss for loss in seen)
        return Progress(
            step,
            step if better else self.best_step,
            0 if better else self.waited + 1,
            (*self.curve, {"step": step, "loss": loss, "validation_loss": validation_loss}),
        )


class States:
    """Store of saved states, created by `open`; a run without a directory saves none."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Path | None, identity: dict[str, Any]) -> Iterator[States]:
        """Open the states below a directory, which is created if necessary.

        Args:
            directory: the directory; None saves no states.
            identity: everything that determines the run, as JSON values; it is saved next to the states.

        Raises:
            InputError: the directory holds the states of a run of another identity; the first difference is named.
            MissingExtraError: orbax is not installed.
            OutputError: the directory has other contents, or another process is learning in it.
        """
        if directory is None:
            yield cls(None)
            return
        _check_same(directory, json.loads(json.dumps(identity)))
        ocp = _orbax()
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        lock = filelock.FileLock(directory / f"{_OURS}lock")
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise OutputError(f"another process learns in {directory}; wait for it, or choose another") from error
        with held, ocp.CheckpointManager((directory / _STATES).absolute(), options=options) as manager:
            yield cls(manager)

    def save(self, step: int, tree: dict[str, Any], progress: Progress) -> None:
        """Save a state; it replaces the previous one once it is complete."""
        if self._manager is None:
            return
        args = _orbax().args
        content = args.Composite(tree=args.StandardSave(tree), progress=args.JsonSave(dataclasses.asdict(progress)))
        self._manager.save(step, args=content, force=True)

    def restore(self, like: dict[str, Any]) -> tuple[dict[str, Any], Progress] | None:
        """Return the last complete state, in arrays with the shapes of ``like``; None if there is no state."""
        if self._manager is None or (step := self._manager.latest_step()) is None:
            return None
        args = _orbax().args
        wanted = jax.tree.map(_abstract, like)
        content = args.Composite(tree=args.StandardRestore(wanted), progress=args.JsonRestore())
        try:
            found = self._manager.restore(step, args=content)
            progress = found["progress"]
            return found["tree"], Progress(**{**progress, "curve": tuple(progress["curve"])})
        except Exception as error:  # orbax has no error type for a damaged state
            raise InputError(
                f"{self._manager.directory / str(step)}, the saved state after step {step}, cannot be read: it is "
                "damaged, or another version of orbax wrote it; delete the run's directory, or choose another"
            ) from error


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)  # type: ignore[no-untyped-call]


def _check_same(directory: Path, identity: dict[str, Any]) -> None:
    """Write the identity, or compare it with the saved one."""
    file = directory / RUN
    if not file.exists():
        # Files left by a process that was killed while writing this file are no reason to refuse.
        if directory.exists() and not all(entry.name.startswith(_OURS) for entry in directory.iterdir()):
            raise OutputError(f"{directory} exists already and holds no run of learning; choose another name")
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = read_object(file)
    except CheckpointError as error:
        raise InputError(f"{error}; delete {directory}, or choose another") from error
    for name, old, new in differences(before, identity):
        what = f"{name} ({old!r:.60}, and now {new!r:.60})"
        raise InputError(f"{directory} holds a run with another {what}; choose another directory, or delete it")


def _orbax() -> Any:
    return require_optional("orbax.checkpoint", extra="lab", feature="a saved state")
