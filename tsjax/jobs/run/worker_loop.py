"""The loop of a worker: it reads, tokenises, computes and writes at the same time, shard after shard.

One thread reads rows and another writes vectors. Between them, `tsjax.jobs.run.compute` keeps the device busy.
Completed shards are skipped, so an interrupted job can be restarted with the same command and produces identical files.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tsjax.errors import InputError, OutputError
from tsjax.jobs.input.columns import Rejection, Row
from tsjax.jobs.input.row_digests import RowsDigest
from tsjax.jobs.input.sources import absolute
from tsjax.jobs.job import Job, Model, Options
from tsjax.jobs.output.directory import Output, StartedWith
from tsjax.jobs.output.precision import CALIBRATED, ranges_of
from tsjax.jobs.output.shard_record import Record, ShardFile
from tsjax.jobs.output.shards import Layout, discard_shard, open_shard, publish_shard
from tsjax.jobs.plan import ALONE, GroupReader, Made, Part, Plan, ShardKey, Worker, check_made
from tsjax.jobs.run.accounting import Books, Summary, run_job
from tsjax.jobs.run.channel import Channel, StoppedError
from tsjax.jobs.run.compute import Block, Computer, Embedded, Seen
from tsjax.jobs.run.progress import Reporter
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

OnError: TypeAlias = Literal["reject", "fail"]

# Maximum number of blocks that wait to be embedded, and of those that wait to be written.
_WAITING = 2

# Approximate number of bytes: the maximum of a block's data other than texts, and the minimum that a row adds to it.
_MOST_BESIDE = 1 << 24
_ROW_WEIGHT = 256


class JobRunner:
    """A run of a job, or of one worker's part of it.

    Args:
        model: the model.
        options: the options of the job.
        plan: the plan that divides the inputs.
        output: the output directory.
        worker: the worker that this process is.
        on_error: ``reject`` lists rows that cannot be embedded; ``fail`` stops at the first.
        reporter: the reporter of the progress.
        model_source: the source of the model: keywords of `tsjax.load`, as JSON values. Readers of the manifest use
            them to load the model again.
    """

    def __init__(
        self,
        model: Model,
        options: Options,
        plan: Plan,
        output: Output,
        *,
        worker: Worker = ALONE,
        on_error: OnError = "reject",
        reporter: Reporter | None = None,
        model_source: dict[str, Any] | None = None,
    ) -> None:
        self._model, self._options, self._plan, self._output = model, options, plan, output
        self._worker, self._on_error = worker, on_error
        self._started_with = StartedWith(tuple(absolute(source.url) for source in plan.sources), model_source or {})
        self._reporter = reporter or Reporter()
        self._computer = Computer(model, options)
        self._job = Job.of(model, options, plan)
        self._layout = Layout.of(self._job, options.columns, plan.sources)

    def run(self) -> Summary:
        """Run the job to its end and return the totals.

        Raises:
            InputError: the output belongs to another job (the message names the difference); an input cannot be read,
                or changes during the run; with ``on_error="fail"``, a row cannot be embedded.
            OutputError: the output cannot be written, or another process is writing to it.
        """
        return run_job(self, self._output, self._plan, self._started_with, self._worker)

    def join(self) -> Job:
        """Check that an existing output belongs to this job, and return the job with its ranges.

        Raises:
            InputError: the output belongs to another job (the message names the difference), or there are too few rows
                to take ranges from.
        """
        recorded = self._output.recorded_job()
        self._check_same(recorded)
        ranges = None if recorded is None else recorded.ranges
        if self._options.precision in CALIBRATED and ranges is None:
            ranges = self._calibrated()
        # Another process may have claimed the output in the meantime, with other options or, computed on other
        # devices, other ranges.
        settled = self._output.settle(self._job.with_ranges(ranges))
        self._check_same(settled)
        self._job = self._job.with_ranges(settled.ranges)
        return self._job

    def _check_same(self, recorded: Job | None) -> None:
        if recorded is not None and (difference := recorded.difference(self._job)):
            raise InputError(
                f"{self._output.path} holds the output of another job: {difference}; go on with that one, or "
                "choose another output"
            )

    def join_as(self, job: Job) -> None:
        """Use a job that another process has joined.

        Raises:
            InputError: this process would make other vectors (the message names the difference).
        """
        if difference := job.difference(self._job):
            raise InputError(f"this process would make other vectors than the job's: {difference}")
        self._job = self._job.with_ranges(job.ranges)

    def compute(self, books: Books, partial: Path) -> int:
        """Compute every missing shard of this worker and return their number."""
        if self._on_error == "fail":
            books.check_no_rejections(self._worker)
        done = books.whole(self._worker)
        if done:
            self._reporter.say("resume", f"there already: {counted(len(done), 'shard')}", shards=len(done))
        self.make(books, self._worker, done, partial)
        return len(books.mine(self._worker)) - len(done)

    def _calibrated(self) -> list[list[float]]:
        """Return the ranges of the dimensions, computed from the first rows of the input."""
        rows: list[Row] = []
        for sources in self._plan.groups:
            reader = GroupReader(sources, self._options.columns)
            with contextlib.closing(reader):
                good = (row for row in reader.rows() if isinstance(row, Row))
                rows.extend(itertools.islice(good, self._options.calibration_rows - len(rows)))
            if len(rows) == self._options.calibration_rows:
                break
        first = counted(len(rows), "row")
        self._reporter.say("calibrate", f"the ranges of the dimensions come from {first}, the first of the input")
        blocks = [Block(ShardKey(0, 0), list(rows), Seen(), final=True, last=True, read=0, left=0)]
        vectors = np.concatenate([done.vectors for done in self._computer.run(blocks)])
        if len(vectors) < 2:
            raise InputError(f"{self._options.precision} needs two rows at least, to take the dimensions' ranges from")
        return ranges_of(vectors)

    def make(self, books: Books, part: Part, done: Mapping[ShardKey, Made], partial: Path) -> None:
        """Compute and write every unfinished shard of a part."""
        blocks: Channel[Block] = Channel(_WAITING)
        finished: Channel[Embedded] = Channel(_WAITING)
        failed: list[BaseException] = []

        def read() -> None:
            error: BaseException | None = None
            try:
                for block in self._blocks(books, part, done):
                    blocks.put(block)
            except StoppedError:
                pass
            except BaseException as raised:  # raised again where the blocks are consumed
                error = raised
            blocks.close(error)

        def write() -> None:
            try:
                self._write(finished, books, partial)
            except BaseException as raised:  # raised again by the main thread
                failed.append(raised)
                finished.stop()

        threads = [
            threading.Thread(target=target, name=f"tsjax-{target.__name__}", daemon=True) for target in (read, write)
        ]
        self._reporter.start(lambda: self._model.embedder.statistics, self._plan.share_of(part))
        for thread in threads:
            thread.start()
        try:
            for embedded in self._computer.run(blocks, self._reporter.tick):
                finished.put(embedded)
                self._reporter.embedded(embedded)
            finished.close()
        except StoppedError:
            pass
        except BaseException as error:
            finished.close(error)
            raise
        finally:
            blocks.stop()
            for thread in threads:
                thread.join()
        if failed:
            raise failed[0]

    def _blocks(self, books: Books, part: Part, done: Mapping[ShardKey, Made]) -> Iterator[Block]:
        """Yield all rows of the unfinished shards of a part, in blocks."""
        groups = books.groups_left(part, done)
        left = sum(source.size for group in groups for source in self._plan.groups[group])
        for group in groups:
            sources = self._plan.groups[group]
            if not all(source.hashed_whole for source in sources):
                check_made(self._plan, group, self._options.columns, done)
            reader = GroupReader(sources, self._options.columns)
            with contextlib.closing(reader):
                wanted = reader.slices(
                    self._plan.rows_per_shard,
                    group,
                    lambda key: self._plan.is_for(part, key),
                    self._plan.bytes_per_shard,
                    done,
                )
                for shard in wanted:
                    seen = Seen()
                    for rows, final, read in self._cut(shard.rows, reader):
                        if final:
                            reader.check_unchanged()
                        behind = left - reader.position()
                        yield Block(shard.key, rows, seen, final, final and reader.at_end(), read, max(0, behind))
            left -= sum(source.size for source in sources)

    def _cut(
        self, rows: Iterator[Row | Rejection], reader: GroupReader
    ) -> Iterator[tuple[list[Row | Rejection], bool, int]]:
        """Yield a shard's rows in blocks with about the same number of characters.

        Each item has the rows, whether they are the last, and the number of bytes read. Data other than texts ends a
        block only if it is very large, so that the texts decide which rows are computed together.
        """
        most = self._computer.block_characters
        block: list[Row | Rejection] = []
        characters, beside, before = 0, 0, reader.position()
        for row in rows:
            if characters >= most or beside >= _MOST_BESIDE:
                yield block, False, max(0, reader.position() - before)
                block, characters, beside, before = [], 0, 0, reader.position()
            if isinstance(row, Rejection):
                self._reject(row)
                beside += _ROW_WEIGHT + len(row.reason)
            else:
                characters += len(row.text)
                beside += _ROW_WEIGHT + len(row.id) + sum(map(_weight, row.kept))
            block.append(row)
        yield block, True, max(0, reader.position() - before)

    def _reject(self, rejection: Rejection) -> None:
        if self._on_error == "fail":
            raise InputError(rejection.sentence)

    def _write(self, finished: Iterable[Embedded], books: Books, partial: Path) -> None:
        """Write the shards one after another, each as its blocks arrive."""
        iterator = iter(finished)
        for first in iterator:
            key = first.block.key
            tally = _Tally()
            with open_shard(self._layout, self._job, key, partial) as writer:
                for block in itertools.chain([first], iterator):
                    for rejection in block.rejected:
                        self._reject(rejection)
                    writer.write(block)
                    tally.add(block)
                    if block.block.final:
                        break
                else:
                    raise OutputError(f"shard {key} has no end")
            if books.is_whole(key):
                # Another process has made the same shard in the meantime, e.g. a node that was wrongly presumed dead.
                discard_shard(self._layout, key, partial)
            else:
                files = publish_shard(self._layout, key, partial, self._output.vectors)
                self._output.write_record(tally.record(self._job, files), partial)
            self._reporter.shard_done()


def _weight(kept: Any) -> int:
    """Return the approximate number of bytes of a kept value."""
    if isinstance(kept, str | bytes):
        return len(kept)
    if isinstance(kept, dict):
        return sum(map(_weight, kept.values()))
    if isinstance(kept, list | tuple):
        return 8 + sum(map(_weight, kept))
    return 8


class _Tally:
    """A tally of a shard's blocks, for its record."""

    def __init__(self) -> None:
        self._input: list[tuple[str, int]] = []
        self._input_rows = 0
        self._digest = RowsDigest()
        self._rejected: list[Rejection] = []
        self._counts = dict.fromkeys(("rows", "tokens", "truncated", "chunked", "duplicates"), 0)
        self._block: Block | None = None

    def add(self, embedded: Embedded) -> None:
        """Count a block."""
        self._block = block = embedded.block
        self._input_rows += len(block.rows)
        for row in block.rows:
            self._digest.add(row)
        if block.rows:
            ends = [(row.file, row.row) for row in (block.rows[0], block.rows[-1])]
            self._input = [*self._input[:1], *ends]
        self._rejected.extend(embedded.rejected)
        self._counts["rows"] += len(embedded.rows)
        for name in ("tokens", "truncated", "chunked", "duplicates"):
            self._counts[name] += getattr(embedded, name)

    def record(self, job: Job, files: tuple[ShardFile, ...]) -> Record:
        """Return the shard's record."""
        assert self._block is not None  # a shard has at least one block
        return Record(
            shard=str(self._block.key),
            job=job.fingerprint,
            last=self._block.last,
            first_row=self._input[0] if self._input else None,
            last_row=self._input[-1] if self._input else None,
            input_rows=self._input_rows,
            input_digest=self._digest.hexdigest(),
            rejected=tuple(self._rejected),
            files=files,
            **self._counts,
        )
