"""Writing and reading of shards, block by block. A shard is published only when it is complete.

The bytes depend on the rows and vectors alone. They contain no time and no name of a machine. (Another version of
pyarrow may compress the same rows to other bytes.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from tsjax.errors import CheckpointError, InputError, require_optional
from tsjax.jobs.input.formats import TABLES
from tsjax.jobs.input.rows import kept_types
from tsjax.jobs.job import FileFormat
from tsjax.jobs.output.directory import file_facts
from tsjax.jobs.output.precision import StoredPrecision, stored_dtype, stored_width, to_stored
from tsjax.jobs.output.shard_record import ShardFile
from tsjax.jobs.output.vector_files import NpyWriter
from tsjax.storage.atomic import explaining, publishing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from tsjax.jobs.input.columns import Columns
    from tsjax.jobs.input.sources import Source
    from tsjax.jobs.job import Job
    from tsjax.jobs.plan import ShardKey
    from tsjax.jobs.run.compute import Embedded

    _Opener: TypeAlias = "Callable[[Layout, Job, Sequence[Path]], AbstractContextManager[ShardWriter]]"

_ZSTD_LEVEL = 3
_READ_ROWS = 8192

SPAN_COLUMNS = ("chunk", "start", "end", "tokens")


@dataclass(frozen=True)
class Layout:
    """The layout of a job's shards.

    Attributes:
        file_format: Parquet, or .npy with JSON lines.
        precision: precision of the stored numbers.
        dimension: dimension of the vectors.
        keep: the columns in addition to id and vector.
        kept_types: the Arrow types of these columns; None for text.
        spans: whether each vector belongs to a chunk and has a span.
    """

    file_format: FileFormat
    precision: StoredPrecision
    dimension: int
    keep: tuple[str, ...] = ()
    kept_types: tuple[Any, ...] | None = None
    spans: bool = False

    @classmethod
    def of(cls, job: Job, columns: Columns, sources: Sequence[Source]) -> Layout:
        """Return the layout of a job's shards.

        Raises:
            InputError: a column to keep has different types in different inputs.
        """
        layout = cls.recorded(job)
        types = _agreed_types(columns, sources) if columns.keep and layout.file_format == "parquet" else None
        return dataclasses.replace(layout, kept_types=types)

    @classmethod
    def recorded(cls, job: Job) -> Layout:
        """Return the layout for reading shards. The types of kept columns are left out: the files contain them."""
        options = job.facts["options"]
        return cls(
            options["format"],
            options["precision"],
            job.facts["model"]["dimension"],
            tuple(options["columns"]["keep"]),
            spans=options["long_texts"] == "late",
        )

    def files(self, key: ShardKey) -> tuple[str, ...]:
        """Return the names of a shard's files."""
        if self.file_format == "parquet":
            return (f"shard-{key}.parquet",)
        return (f"shard-{key}.npy", f"shard-{key}.jsonl")


def _agreed_types(columns: Columns, sources: Sequence[Source]) -> tuple[Any, ...] | None:
    """Return the types of the kept columns in the first input. All other inputs must have the same types."""
    kinds = {source.format in TABLES for source in sources}
    if kinds == {True, False}:
        raise InputError("columns cannot be kept of Parquet or Arrow files and of others at once: their types differ")
    if kinds == {False}:
        return None
    first = kept_types(sources[0], columns)
    for source in sources[1:]:
        for name, type_, wanted in zip(columns.keep, kept_types(source, columns) or (), first or (), strict=True):
            if type_ != wanted:
                raise InputError(f"{source.url} has {name!r} as {type_}, and {sources[0].url} as {wanted}")
    return tuple(first or ())


class ShardWriter(Protocol):
    """A writer of a shard's blocks, in order."""

    def write(self, block: Embedded) -> None:
        """Append a block."""


@contextlib.contextmanager
def open_shard(layout: Layout, job: Job, key: ShardKey, partial: Path) -> Iterator[ShardWriter]:
    """Yield a writer of a shard's files in ``partial``, the folder for files that are being written."""
    writers: dict[str, _Opener] = {"parquet": _parquet, "npy": _npy}
    paths = [partial / name for name in layout.files(key)]
    try:
        with explaining(paths[0]), writers[layout.file_format](layout, job, paths) as writer:
            yield writer
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def publish_shard(layout: Layout, key: ShardKey, partial: Path, vectors: Path) -> tuple[ShardFile, ...]:
    """Move a shard's files to the folder ``vectors`` and return their facts for the shard's record."""
    facts = []
    for name in layout.files(key):
        with publishing(vectors / name, partial) as temporary:
            fact = file_facts(temporary, name)
        assert fact is not None  # it was just written
        facts.append(fact)
    return tuple(facts)


def discard_shard(layout: Layout, key: ShardKey, partial: Path) -> None:
    """Remove a shard's files that were written in ``partial`` and are not needed."""
    for name in layout.files(key):
        (partial / name).unlink(missing_ok=True)


class _Parquet:
    def __init__(self, writer: Any, schema: Any, layout: Layout, ranges: list[list[float]] | None) -> None:
        self._writer, self._schema, self._layout, self._ranges = writer, schema, layout, ranges

    def write(self, block: Embedded) -> None:
        import pyarrow as pa  # noqa: PLC0415  # an extra

        layout = self._layout
        if not block.rows:
            return
        stored = to_stored(block.vectors, layout.precision, self._ranges)
        columns: list[Any] = [pa.array([row.id for row in block.rows], pa.string())]
        if layout.spans:
            assert block.spans is not None
            for place, field in enumerate(SPAN_COLUMNS, start=1):
                columns.append(pa.array([getattr(span, field) for span in block.spans], self._schema.field(place).type))
        numbers = pa.array(np.ascontiguousarray(stored).reshape(-1))
        columns.append(pa.FixedSizeListArray.from_arrays(numbers, stored.shape[1]))
        for place, name in enumerate(layout.keep):
            columns.append(pa.array([row.kept[place] for row in block.rows], self._schema.field(name).type))
        self._writer.write_table(pa.table(columns, schema=self._schema))


@contextlib.contextmanager
def _parquet(layout: Layout, job: Job, paths: Sequence[Path]) -> Iterator[_Parquet]:
    parquet = require_optional("pyarrow.parquet", extra="batch", feature="the output: Parquet")
    schema = _schema(layout, job)
    dtype = stored_dtype(layout.precision)
    # Grouping bytes of the same significance compresses float32 better, and the zero bytes of bfloat16 to nothing.
    split = {"embedding.list.element": "BYTE_STREAM_SPLIT"} if dtype == np.float32 else None
    # Parquet has no 8-bit integers. As indices into a dictionary of 256 values they take no more than 8 bits.
    coded = [*layout.keep, *(["embedding.list.element"] if dtype.itemsize == 1 else [])]
    with (
        paths[0].open("wb") as file,
        parquet.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=coded,
            column_encoding=split,
            write_statistics=["id", *layout.keep],
        ) as writer,
    ):
        yield _Parquet(writer, schema, layout, job.ranges)


def _schema(layout: Layout, job: Job) -> Any:
    import pyarrow as pa  # noqa: PLC0415  # an extra

    width = stored_width(layout.precision, layout.dimension)
    numbers = pa.list_(pa.from_numpy_dtype(stored_dtype(layout.precision)), width)
    spans = [(name, pa.int32() if name in ("chunk", "tokens") else pa.int64()) for name in SPAN_COLUMNS]
    kept = layout.kept_types or (pa.string(),) * len(layout.keep)
    fields = [("id", pa.string()), *(spans if layout.spans else ()), ("embedding", numbers)]
    about = {"job": job.fingerprint, "precision": layout.precision, "dimension": layout.dimension}
    schema = pa.schema([*fields, *zip(layout.keep, kept, strict=True)])
    return schema.with_metadata({"tsjax": json.dumps(about)})


class _Npy:
    def __init__(self, vectors: NpyWriter, lines: Any, layout: Layout, ranges: list[list[float]] | None) -> None:
        self._vectors, self._lines, self._layout, self._ranges = vectors, lines, layout, ranges

    def write(self, block: Embedded) -> None:
        ids = [row.id for row in block.rows]
        self._vectors.write(ids, to_stored(block.vectors, self._layout.precision, self._ranges))
        for number, row in enumerate(block.rows):
            content: dict[str, Any] = {"id": row.id}
            if block.spans is not None:
                content |= block.spans[number]._asdict()
            content |= dict(zip(self._layout.keep, row.kept, strict=True))
            self._lines.write(json.dumps(content, ensure_ascii=False, default=str) + "\n")


@contextlib.contextmanager
def _npy(layout: Layout, job: Job, paths: Sequence[Path]) -> Iterator[_Npy]:
    width, dtype = stored_width(layout.precision, layout.dimension), stored_dtype(layout.precision)
    with paths[0].open("wb") as file, paths[1].open("w", encoding="utf-8", newline="\n") as lines:
        vectors = NpyWriter(file, width, dtype)
        yield _Npy(vectors, lines, layout, job.ranges)
        vectors.finish()


class StoredRows(NamedTuple):
    """Consecutive rows of a shard.

    Attributes:
        ids: the id of each vector.
        chunks: the chunk index of each vector; None if vectors represent complete texts.
        vectors: the vectors in the stored precision, (n, numbers).
        rest: the other columns of each row, if they were requested.
    """

    ids: list[str]
    chunks: list[int] | None
    vectors: NDArray[Any]
    rest: list[dict[str, Any]] | None


def read_shard(layout: Layout, folder: Path, key: ShardKey, *, rest: bool = False) -> Iterator[StoredRows]:
    """Yield a shard's rows in blocks.

    Args:
        layout: the layout of the shard.
        folder: the folder of the shard's files.
        key: the shard.
        rest: whether to return the other columns too.

    Raises:
        CheckpointError: the shard is damaged.
    """
    paths = [folder / name for name in layout.files(key)]
    read = _read_parquet if layout.file_format == "parquet" else _read_npy
    yield from read(layout, paths, rest=rest)


def _read_parquet(layout: Layout, paths: Sequence[Path], *, rest: bool) -> Iterator[StoredRows]:
    parquet = require_optional("pyarrow.parquet", extra="batch", feature=f"{paths[0]}: Parquet")
    width = stored_width(layout.precision, layout.dimension)
    others = [*(SPAN_COLUMNS if layout.spans else ()), *layout.keep] if rest else ["chunk"] if layout.spans else []
    try:
        with parquet.ParquetFile(paths[0]) as file:
            for batch in file.iter_batches(_READ_ROWS, columns=["id", *others, "embedding"], use_threads=False):
                vectors = batch.column("embedding")
                if vectors.null_count or vectors.type.list_size != width:
                    raise CheckpointError(f"{paths[0]} has vectors of another size, or none in some rows")
                # `flatten`, unlike `values`, respects the offset of a slice.
                numbers = vectors.flatten().to_numpy(zero_copy_only=False)
                yield StoredRows(
                    batch.column("id").to_pylist(),
                    batch.column("chunk").to_pylist() if layout.spans else None,
                    numbers.reshape(len(vectors), width),
                    batch.select(others).to_pylist() if rest else None,
                )
    except (CheckpointError, GeneratorExit):
        raise
    except Exception as error:  # pyarrow raises OSError, KeyError and its own exceptions
        raise CheckpointError(f"{paths[0]} cannot be read: {str(error).splitlines()[0]}") from error


def _read_npy(layout: Layout, paths: Sequence[Path], *, rest: bool) -> Iterator[StoredRows]:
    try:
        vectors = np.load(paths[0], mmap_mode="r")
        if vectors.ndim != 2 or vectors.shape[1] != stored_width(layout.precision, layout.dimension):
            raise CheckpointError(f"{paths[0]} has the shape {vectors.shape}")
        with paths[1].open(encoding="utf-8") as lines:
            for start in range(0, len(vectors), _READ_ROWS):
                block = np.asarray(vectors[start : start + _READ_ROWS])
                rows = [json.loads(next(lines)) for _ in block]
                ids = [row.pop("id") for row in rows]
                chunks = [row["chunk"] for row in rows] if layout.spans else None
                yield StoredRows(ids, chunks, block, rows if rest else None)
            if next(lines, None) is not None:
                raise CheckpointError(f"{paths[1]} has more rows than {paths[0].name}")
    except (CheckpointError, GeneratorExit):
        raise
    except StopIteration as error:
        raise CheckpointError(f"{paths[1]} has fewer rows than {paths[0].name}") from error
    except Exception as error:  # a damaged header makes numpy raise EOFError, SyntaxError, TokenError and others
        raise CheckpointError(f"{paths[0]} cannot be read: {str(error).partition(chr(10))[0]}") from error
