"""The sink of a LanceDB table: ``lancedb://DIR/TABLE``.

The table has the shards' columns and `LABEL`. Each change is an atomic commit of Lance, also for concurrent readers.
The commits of several workers are queued one after another.
"""

from __future__ import annotations

import collections
import json
import random
import time
from typing import TYPE_CHECKING, Any, TypeVar

from tsjax.errors import InputError, OutputError, TsjaxError, require_optional
from tsjax.storage.atomic import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from tsjax.jobs.job import Job
    from tsjax.jobs.plan import ShardKey
    from tsjax.jobs.sinks.sink import StoredShard

_Result = TypeVar("_Result")

# The column with the label of a row's shard.
LABEL = "tsjax_shard"

# The precisions that LanceDB compares as numbers, and ubinary, which it compares bit by bit as uint8.
_PRECISIONS = ("float32", "float16", "bfloat16", "ubinary")

_BATCH_ROWS = 8192

# Lance retries a commit by itself. We retry too, because very many workers may still conflict.
_ATTEMPTS = 8
_CONTENTION = ("conflict", "contention", "too many concurrent")


def open_sink(address: str, job: Job) -> LanceSink:
    """Return the sink of the table at ``DIR/TABLE``. A missing table is created when the first rows are added.

    Raises:
        InputError: the address lacks the folder or the table, the table holds other data, or LanceDB cannot take the
            job's vectors or columns.
        MissingExtraError: LanceDB is not installed.
        OutputError: the table cannot be opened.
    """
    folder, _, name = address.rpartition("/")
    if not folder or not name:
        raise InputError(f"lancedb://{address} does not say DIR/TABLE: the database's folder and a table in it")
    options = job.facts["options"]
    if options["precision"] not in _PRECISIONS:
        raise InputError(
            f"LanceDB does not search vectors of {options['precision']}; it takes {', '.join(_PRECISIONS)}, the last "
            "of these by Hamming distance"
        )
    for column in options["columns"]["keep"]:
        if column == LABEL or "." in column:
            why = "the table has one of its own" if column == LABEL else "LanceDB allows no dot in a name"
            raise InputError(f"the column {column!r} cannot be kept in a table of LanceDB, since {why}")
    lancedb = require_optional("lancedb", extra="lancedb", feature="--sink lancedb://")
    path = folder if "://" in folder else str(expanded(folder))
    return LanceSink(_explained(address, lambda: lancedb.connect(path)), name, job, address)


class LanceSink:
    """A table of LanceDB; a `tsjax.jobs.sinks.sink.Sink`."""

    def __init__(self, database: Any, name: str, job: Job, address: str) -> None:
        self._database, self._name, self._job, self._address = database, name, job, address
        self._table = self._opened()

    def counts(self) -> dict[str, int]:
        """Return the number of rows with each label."""
        import pyarrow.compute as pc  # noqa: PLC0415  # a dependency of LanceDB

        table = self._table
        if table is None:
            return {}

        def read() -> dict[str, int]:
            table.checkout_latest()
            counts = collections.Counter[str]()
            for batch in table.search().select([LABEL]).to_batches(_BATCH_ROWS):
                for found in pc.value_counts(batch.column(LABEL).drop_null()).to_pylist():
                    counts[found["values"]] += found["counts"]
            return counts

        return _explained(self._address, read)

    def remove(self, keys: Collection[ShardKey]) -> None:
        """Remove all rows of some shards."""
        table = self._table
        if table is not None:
            names = ", ".join(f"'{key}'" for key in sorted(keys))
            _explained(self._address, lambda: table.delete(f"split_part({LABEL}, '/', 1) IN ({names})"))

    def add(self, shards: Sequence[StoredShard]) -> None:
        """Add all rows of some shards, in one commit."""
        import pyarrow as pa  # noqa: PLC0415  # a dependency of LanceDB

        schema = _explained(self._address, lambda: _schema(shards[0]))
        if self._table is None:
            self._table = self._made(schema)
        table = self._table
        # Each attempt needs a new reader, because a reader can be read only once.
        _explained(
            self._address, lambda: table.add(pa.RecordBatchReader.from_batches(schema, _batches(shards, schema)))
        )

    def _opened(self) -> Any:
        """Return the table, or None if it does not exist.

        Raises:
            InputError: the table was not made by tsjax, or belongs to another job.
            OutputError: the table cannot be opened.
        """
        try:
            table = self._database.open_table(self._name)
        except Exception as error:
            if "not found" in str(error):  # LanceDB has no exception class for it
                return None
            raise _error(self._address, error) from error
        stamp = (table.schema.metadata or {}).get(b"tsjax")
        if stamp is None:
            raise InputError(f"the table lancedb://{self._address} was not made by tsjax batch; choose another name")
        if json.loads(stamp)["job"] != self._job.fingerprint:
            raise InputError(
                f"the table lancedb://{self._address} holds the rows of another job: of other inputs, another model or "
                "other options; choose another name"
            )
        return table

    def _made(self, schema: Any) -> Any:
        """Create the table, unless another worker creates it at the same moment, and return it."""
        try:
            _explained(self._address, lambda: self._database.create_table(self._name, schema=schema, exist_ok=True))
        except OutputError:
            if self._opened() is None:  # raises a clearer error if another job has created it
                raise
        return self._opened()


def _schema(shard: StoredShard) -> Any:
    """Return the columns of a shard's file and the label. The file's metadata, which names the job, is kept."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    return pq.read_schema(shard.path).append(pa.field(LABEL, pa.string()))


def _batches(shards: Sequence[StoredShard], schema: Any) -> Iterator[Any]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    for shard in shards:
        with pq.ParquetFile(shard.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                labels = pa.array([shard.label] * len(batch), pa.string())
                yield pa.RecordBatch.from_arrays([*batch.columns, labels], schema=schema)


def _explained(address: str, work: Callable[[], _Result]) -> _Result:
    """Run an operation of the database. Retry it after conflicts, and convert errors to an OutputError."""
    for attempt in range(_ATTEMPTS):
        try:
            return work()
        except TsjaxError:
            raise
        except Exception as error:  # LanceDB raises RuntimeError, ValueError, OSError and its own exceptions
            contended = any(word in str(error).lower() for word in _CONTENTION)
            if not contended or attempt == _ATTEMPTS - 1:
                raise _error(address, error) from error
        time.sleep(random.uniform(0, 0.1 * 2**attempt))
    raise AssertionError  # the last attempt returned or raised


def _error(address: str, error: Exception) -> OutputError:
    return OutputError(f"lancedb://{address} cannot be used: {str(error).splitlines()[0]}")
