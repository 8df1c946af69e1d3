"""The code that runs on the cluster's nodes: the process that joins a job's output, and the actors that make shards.

Both load the model themselves. A user error is returned as a result. Ray therefore does not retry work that cannot
succeed, and does not wrap the message in tracebacks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tsjax import errors
from tsjax.encoders.signatures import LoadOptions
from tsjax.errors import InputError, TsjaxError
from tsjax.jobs.job import Job, Model
from tsjax.jobs.output.directory import Output
from tsjax.jobs.plan import Piece
from tsjax.jobs.ray.cluster import settle_process
from tsjax.jobs.ray.progress import Teller
from tsjax.jobs.run.accounting import Books
from tsjax.jobs.run.worker_loop import JobRunner
from tsjax.storage.atomic import explaining

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tsjax.jobs.job import Facts, Options
    from tsjax.jobs.plan import Plan
    from tsjax.jobs.run.worker_loop import OnError


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The source from which each process loads the job's model.

    Attributes:
        model: a name or a directory; None for the default model.
        options: other keywords of `tsjax.load`.
        task: the role of the texts.
        prompt_name, prompt: see `Model.of`.
        compile_cache: whether to cache compiled programs on the node.
        folder: the folder that a relative path of a model is relative to.
    """

    model: str | None = None
    options: LoadOptions = field(default_factory=LoadOptions)
    task: Literal["query", "document"] | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    compile_cache: bool = True
    folder: str = "."

    def load(self) -> Model:
        """Load the model on this process's devices.

        Raises:
            TsjaxError: see `tsjax.load`.
        """
        from tsjax.api import load_embedder  # noqa: PLC0415  # imports JAX, which must follow settle_process
        from tsjax.storage.compile_cache import enable_compile_cache  # noqa: PLC0415

        if self.compile_cache:
            with contextlib.suppress(TsjaxError):  # the cache is optional, and a node may have no place for it
                enable_compile_cache()
        # A model's path, as it was given, is part of its identity in a manifest. A relative path is therefore kept.
        with contextlib.chdir(self.folder) if Path(self.folder).is_dir() else contextlib.nullcontext():
            model = load_embedder(self.model, **self.options)
        return Model.of(model, self.task, self.prompt_name, self.prompt)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The description of a job that is sent to a node.

    Attributes:
        source: the source of the model.
        options: the options of the job.
        plan: the plan of the inputs, with absolute paths.
        output: the absolute path of the output.
        on_error: see `JobRunner`.
        resources: the resources of the node that the process may use.
    """

    source: ModelSource
    options: Options
    plan: Plan
    output: str
    on_error: OnError
    resources: Mapping[str, float]

    def runner(self, teller: Teller | None = None) -> JobRunner:
        """Load the model and return a runner of the job."""
        model = self.source.load()
        return JobRunner(model, self.options, self.plan, Output(self.output), on_error=self.on_error, reporter=teller)


@dataclass(frozen=True)
class Failure:
    """A user error, in a form that can be sent to the driver."""

    kind: str
    sentence: str

    @classmethod
    def of(cls, error: TsjaxError) -> Failure:
        """Convert an error and add the name of its node."""
        return cls(type(error).__name__, f"{error} (on the node {os.uname().nodename})")

    def error(self) -> TsjaxError:
        """Return the error as an exception."""
        kind: type[TsjaxError] = getattr(errors, self.kind, TsjaxError)
        return kind(self.sentence)


def settle(work: Work) -> Facts | Failure:
    """Join the output with `JobRunner.join`; return the job's facts with ranges, or the error that prevents the job."""
    settle_process(work.resources)
    try:
        _check_shared(work.output, Path(work.output) / "vectors")
        return work.runner().join().facts
    except TsjaxError as error:
        return Failure.of(error)


class ShardMaker:
    """A maker of the shards of a piece, for ``map_batches``.

    Args:
        work: the description of the job.
        facts: the facts of the job, as returned by `settle`.
        partial: the driver's folder for files that are being written.
        board: the board that receives the progress.
    """

    def __init__(self, work: Work, facts: Facts, partial: str, board: Any) -> None:
        settle_process(work.resources)
        self._work, self._job, self._partial = work, Job(facts), Path(partial)
        self._books = Books(Output(work.output), work.plan, self._job)
        self._teller = Teller(board)
        self._runner: JobRunner | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute the missing shards of a piece.

        Args:
            batch: a batch of one piece: its ``number``, ``group``, ``index`` and ``count``.

        Returns:
            The ``number`` of the piece; ``shards``, the number of its shards; ``damaged``, the number of recorded
            shards that differed from their records; ``error`` and ``sentence``, both empty if there was no error.
        """
        (number,) = batch["number"].tolist()
        piece = Piece(*(batch[name].tolist()[0] for name in ("group", "index", "count")))
        damaged, failure = 0, Failure("", "")
        try:
            damaged = self._make(number, piece)
        except TsjaxError as error:
            failure = Failure.of(error)
        return {
            "number": np.array([number]),
            "shards": np.array([len(self._books.mine(piece))]),
            "damaged": np.array([damaged]),
            "error": np.array([failure.kind]),
            "sentence": np.array([failure.sentence]),
        }

    def _make(self, number: int, piece: Piece) -> int:
        _check_shared(self._work.output, self._partial)
        self._teller.begin(number)
        recorded, done = self._books.mine(piece), self._books.whole(piece)
        if self._books.groups_left(piece, done):
            # The name is unique, because an earlier process with the same piece may still be alive.
            folder = self._partial / f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex}"
            try:
                with explaining(folder):
                    folder.mkdir()
                self._loaded().make(self._books, piece, done, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        self._teller.end()
        return len(recorded) - len(done)

    def _loaded(self) -> JobRunner:
        """Return the runner. Its model is loaded for the first piece that needs it, and checked against the job."""
        if self._runner is None:
            runner = self._work.runner(self._teller)
            runner.join_as(self._job)
            self._runner = runner
        return self._runner


def _check_shared(output: str, folder: Path) -> None:
    """Raise an InputError if a folder that the driver has created does not exist here."""
    if not folder.is_dir():
        raise InputError(
            f"{output} is not here as it is at the driver; a job on Ray needs inputs and output on storage that every "
            "node has at the same paths"
        )
