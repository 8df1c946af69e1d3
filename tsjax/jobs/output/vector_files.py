"""Writing of vectors, block by block in constant memory: .npy, .npz, .jsonl, .parquet, or JSONL on standard output.

A file appears only when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

import numpy as np

from tsjax.errors import InputError, require_optional
from tsjax.storage.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

STDOUT = "-"


class VectorWriter(Protocol):
    """A writer of blocks of texts and their vectors, in order."""

    def write(self, texts: Sequence[str], vectors: NDArray[Any]) -> None:
        """Append a block."""


@contextlib.contextmanager
def open_vectors(output: str, dimension: int, dtype: np.dtype[Any], *, overwrite: bool) -> Iterator[VectorWriter]:
    """Yield a writer for the file format of the path's suffix.

    Args:
        output: a path, or ``-`` for JSONL on standard output.
        dimension: dimension of the vectors.
        dtype: dtype of the vectors.
        overwrite: whether to overwrite an existing file.

    Raises:
        InputError: the suffix is not that of a supported format.
        OutputError: the file exists, or cannot be written.
        MissingExtraError: Parquet without pyarrow.
    """
    check_output(output)
    if output == STDOUT:
        if sys.stdout is None:
            raise InputError("standard output is closed")
        yield _Jsonl(sys.stdout)
        sys.stdout.flush()
        return
    path = Path(output)
    with (
        replacing(path, overwrite=overwrite) as temporary,
        _WRITERS[path.suffix](temporary, dimension, dtype) as writer,
    ):
        yield writer


def check_output(output: str) -> None:
    """Raise an error if the format of an output cannot be written, before any work is done."""
    suffix = Path(output).suffix
    if output != STDOUT and suffix not in _WRITERS:
        raise InputError(
            f"{output}: the output's suffix must be one of {', '.join(_WRITERS)}, or the output - for JSONL"
        )
    if suffix == ".parquet":
        require_optional("pyarrow.parquet", extra="parquet", feature="Parquet")


class NpyWriter:
    """A writer of a .npy file whose row count is filled in at the end."""

    def __init__(self, file: BinaryIO, dimension: int, dtype: np.dtype[Any]) -> None:
        self._file, self._dimension, self._dtype, self._rows = file, dimension, dtype, 0
        self._write_header()

    def write(self, texts: Sequence[str], vectors: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(vectors, self._dtype).data)
        self._rows += len(texts)

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # NumPy pads the header, so that the first axis can grow in place.
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._rows, self._dimension)}
        np.lib.format.write_array_header_1_0(self._file, header)


@contextlib.contextmanager
def _npy(path: Path, dimension: int, dtype: np.dtype[Any]) -> Iterator[VectorWriter]:
    with path.open("wb") as file:
        writer = NpyWriter(file, dimension, dtype)
        yield writer
        writer.finish()


@contextlib.contextmanager
def _npz(path: Path, dimension: int, dtype: np.dtype[Any]) -> Iterator[VectorWriter]:
    """Yield a writer of the array ``embeddings``.

    The array is first written to a .npy file next to the archive, because a member of a zip file cannot be rewound.
    """
    unpacked = path.with_suffix(".npy")
    with _npy(unpacked, dimension, dtype) as writer:
        yield writer
    with path.open("wb") as file:
        np.savez(file, embeddings=np.load(unpacked, mmap_mode="r"))
    unpacked.unlink()


class _Jsonl:
    """A writer of one JSON object a line, with ``text`` and ``embedding``."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, texts: Sequence[str], vectors: NDArray[Any]) -> None:
        for text, vector in zip(texts, vectors, strict=True):
            # Nine digits suffice to recover every float32. They are written four times as fast as the shortest digits
            # that suffice.
            numbers = [f"{number:.9g}" for number in vector.tolist()]
            text_json = json.dumps(text, ensure_ascii=False)
            self._file.write(f'{{"text": {text_json}, "embedding": [{", ".join(numbers)}]}}\n')


@contextlib.contextmanager
def _jsonl(path: Path, dimension: int, dtype: np.dtype[Any]) -> Iterator[VectorWriter]:
    del dimension, dtype  # JSON has lists of any length and one number type
    with path.open("w", encoding="utf-8", newline="\n") as file:
        yield _Jsonl(file)


class _Parquet:
    """A writer of the columns ``text`` and ``embedding``, a list of fixed size."""

    def __init__(self, writer: Any, schema: Any, dimension: int) -> None:
        self._writer, self._schema, self._dimension = writer, schema, dimension

    def write(self, texts: Sequence[str], vectors: NDArray[Any]) -> None:
        import pyarrow as pa  # noqa: PLC0415  # an extra

        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        rows = pa.FixedSizeListArray.from_arrays(flat, self._dimension)
        self._writer.write_table(pa.table([pa.array(texts, pa.string()), rows], schema=self._schema))


@contextlib.contextmanager
def _parquet(path: Path, dimension: int, dtype: np.dtype[Any]) -> Iterator[VectorWriter]:
    parquet = require_optional("pyarrow.parquet", extra="parquet", feature="Parquet")
    import pyarrow as pa  # noqa: PLC0415  # an extra

    numbers = pa.list_(pa.from_numpy_dtype(dtype), dimension)
    schema = pa.schema([("text", pa.string()), ("embedding", numbers)])
    with parquet.ParquetWriter(path, schema) as writer:
        yield _Parquet(writer, schema, dimension)


_WRITERS: dict[str, Callable[[Path, int, np.dtype[Any]], AbstractContextManager[VectorWriter]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
