"""The driver of a job on Ray. It does the accounting, distributes the pieces with Ray Data, and loads no model.

Shards and manifest are byte-identical to those of a single machine, so either engine can continue the other's output.
If an actor or node dies, Ray gives its piece to another actor, which skips the existing shards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.errors import InputError
from tsjax.jobs.input.sources import absolute
from tsjax.jobs.job import Job
from tsjax.jobs.output.directory import StartedWith
from tsjax.jobs.plan import ALONE
from tsjax.jobs.ray.actors import Failure, ModelSource, ShardMaker, Work, settle
from tsjax.jobs.ray.cluster import check_resources, connected, fitting, remote_arguments, usual_resources
from tsjax.jobs.ray.progress import Board, watching
from tsjax.jobs.run.accounting import Books, Summary, run_job
from tsjax.jobs.run.progress import Reporter
from tsjax.validation.numbers import check_whole_fields
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tsjax.jobs.job import Options
    from tsjax.jobs.output.directory import Output
    from tsjax.jobs.plan import Plan
    from tsjax.jobs.run.worker_loop import OnError

# Minimum number of pieces for each actor: few enough that a large file is not read many times, and enough that the last
# pieces end at about the same time.
_PIECES_AN_ACTOR = 4


@dataclasses.dataclass(frozen=True)
class Pool:
    """The pool of actors to start.

    Attributes:
        address: the address of the cluster; see `tsjax.jobs.ray.cluster.connected`.
        resources: the resources of each actor, by Ray's names; None for a GPU, or a TPU host's chips, or a node's CPUs.
        concurrency: the number of actors; None for as many as fit on the cluster.

    Raises:
        InputError: a value is invalid.
    """

    address: str | None = None
    resources: Mapping[str, float] | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.resources is not None:
            check_resources(self.resources)
        if self.concurrency is not None:
            check_whole_fields(self, "concurrency")


class RayRunner:
    """A run of a job on a Ray cluster.

    Args:
        source: the source of the model, which every actor loads.
        options: the options of the job.
        plan: the plan that divides the inputs, which must be on storage that every node has.
        output: the output directory, which must be on storage that every node has.
        pool: the pool of actors.
        on_error: ``reject`` lists rows that cannot be embedded; ``fail`` stops at one of them.
        reporter: the reporter of the progress.
        model_source: see `tsjax.jobs.run.worker_loop.JobRunner`.
    """

    def __init__(
        self,
        source: ModelSource,
        options: Options,
        plan: Plan,
        output: Output,
        *,
        pool: Pool | None = None,
        on_error: OnError = "reject",
        reporter: Reporter | None = None,
        model_source: dict[str, Any] | None = None,
    ) -> None:
        self._source, self._options, self._output, self._on_error = source, options, output, on_error
        groups = tuple(
            tuple(dataclasses.replace(source, url=absolute(source.url)) for source in group) for group in plan.groups
        )
        self._plan = dataclasses.replace(plan, groups=groups)
        self._started_with = StartedWith(tuple(source.url for source in self._plan.sources), model_source or {})
        self._pool = Pool() if pool is None else pool
        self._reporter = Reporter() if reporter is None else reporter
        self._ray: Any = None
        self._concurrency = 1
        self._work: Work | None = None

    def run(self, joined: Callable[[Job], object] = lambda job: None) -> Summary:
        """Run the job to its end and return the totals.

        Args:
            joined: called with the job before anything is computed; may refuse the job.

        Raises:
            InputError: no cluster can be reached; the nodes do not see the output or the inputs, or have different
                models; for other cases see `JobRunner.run`.
            OutputError: the output cannot be written, or another process is writing to it.
            MissingExtraError: Ray is not installed.
        """
        with connected(self._pool.address) as self._ray:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            resources = dict(self._pool.resources or usual_resources(nodes))
            room = fitting(resources, nodes)
            self._concurrency = self._pool.concurrency or max(1, room)
            self._work = Work(
                source=self._source,
                options=self._options,
                plan=self._plan,
                output=os.path.abspath(self._output.path),  # noqa: PTH100  # without following links
                on_error=self._on_error,
                resources=resources,
            )
            self._reporter.say(
                "ray",
                f"actors on Ray: {self._concurrency:,}, each with {resources}; nodes: {len(nodes):,}"
                + ("" if room else ", of which none has room for an actor; Ray waits until one has"),
                actors=self._concurrency,
                resources=resources,
                nodes=len(nodes),
            )
            return run_job(self, self._output, self._plan, self._started_with, joined=joined)

    def join(self) -> Job:
        """Join the output in a process with the same kind of device as the actors, and return the job."""
        assert self._work is not None  # set by `run`
        arguments = remote_arguments(self._work.resources)
        try:
            # A separate process, which releases the device for the actors when it ends.
            settled = self._ray.remote(max_calls=1, **arguments)(settle).remote(self._work)
        except ValueError as error:
            reason = "".join(map(str, error.args))  # Ray splits its messages into two arguments
            raise InputError(f"Ray cannot give an actor {dict(self._work.resources)}: {reason}") from error
        found = self._ray.get(settled)
        if isinstance(found, Failure):
            raise found.error()
        return Job(found)

    def compute(self, books: Books, partial: Path) -> int:
        """Compute every missing shard with the actors, and return their number."""
        assert self._work is not None  # set by `run`
        if self._on_error == "fail":
            books.check_no_rejections(ALONE)
        ray = self._ray
        pieces = self._plan.pieces(_PIECES_AN_ACTOR * self._concurrency)
        before = set(books.mine(ALONE))
        if before:
            self._reporter.say("resume", f"there already: {counted(len(before), 'shard')}", shards=len(before))
        sizes = books.job.group_bytes()
        board = _board(ray, [sizes[piece.group] / piece.count for piece in pieces])
        rows = [{"number": number, **dataclasses.asdict(piece)} for number, piece in enumerate(pieces)]
        damaged = 0
        with _quiet(ray), watching(ray, board, self._reporter):
            results = (
                # One block for each piece, because Ray Data distributes blocks. An actor gets no second block while it
                # works on one, because another actor might be idle.
                ray.data.from_items(rows, override_num_blocks=len(rows))
                .map_batches(
                    ShardMaker,
                    batch_size=1,
                    fn_constructor_kwargs={
                        "work": self._work,
                        "facts": books.job.facts,
                        "partial": str(Path(self._work.output) / partial.relative_to(self._output.path)),
                        "board": board,
                    },
                    compute=ray.data.ActorPoolStrategy(
                        size=min(self._concurrency, len(rows)), max_tasks_in_flight_per_actor=1
                    ),
                    **remote_arguments(self._work.resources),
                )
                .iter_rows()
            )
            for row in results:
                if row["error"]:
                    raise Failure(row["error"], row["sentence"]).error()
                damaged += int(row["damaged"])
        return len(set(books.mine(ALONE)) - before) + damaged


def _board(ray: Any, sizes: list[float]) -> Any:
    """Create a board on the driver's node, so that it is lost only together with that node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  # an extra

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote(sizes)


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Disable the progress bars and log lines of Ray Data on standard error, where tsjax writes its own line."""
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    # Ray Data warns that the progress bars are disabled.
    levels = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        for logger, level in before.items():
            logger.setLevel(level)
