"""`Embed` for Ray Data pipelines, which adds vectors to the texts of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from tsjax.encoders.signatures import LoadOptions
from tsjax.errors import InputError
from tsjax.text.unicode import lone_surrogate
from tsjax.validation.keywords import strict_keywords

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from numpy.typing import NDArray

    from tsjax.encoders.signatures import BlockOptions

BadRows: TypeAlias = Literal["fail", "nan"]


class Embed:
    """Callable that adds a column of vectors to batches; for ``Dataset.map_batches``, which makes an actor of it.

    ::

        dataset.map_batches(
            tsjax.jobs.ray.Embed,
            fn_constructor_kwargs={"model": "all-MiniLM-L6-v2", "text_column": "text"},
            batch_size=4096, concurrency=8, num_gpus=1,
        )

    An actor loads the model once. The work of the device at a time is bounded by tokens (``token_budget``), not by
    ``batch_size``. That should be some thousands, so that texts of similar length can be grouped.

    Args:
        model: as for `tsjax.load`: a name, or a directory that exists on every node.
        text_column: column of the texts.
        output_column: column of the vectors: float32 (n, D).
        task: ``query`` or ``document``: use the model's prompt, temperature and encoder for these texts.
        prompt_name: name of one of the model's prompts, put before each text.
        prompt: text put before each text; takes precedence over ``prompt_name``.
        normalize_embeddings: divide each vector by its norm.
        bad_rows: treatment of a row that is null, not text, or not valid Unicode: ``fail`` raises an error that names
            it; ``nan`` gives it a vector of NaN.
        options: other keywords of `tsjax.load`, such as ``temperature``, ``dtype`` and ``truncate_dim``.

    Raises:
        ModelNotFoundError, ConversionError, CheckpointError: the model cannot be loaded.
        InputError: an option cannot be used.
    """

    @strict_keywords(LoadOptions)
    def __init__(
        self,
        model: str | None = None,
        *,
        text_column: str = "text",
        output_column: str = "embedding",
        task: Literal["query", "document"] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        bad_rows: BadRows = "fail",
        **options: Unpack[LoadOptions],
    ) -> None:
        from tsjax.api import load_embedder  # noqa: PLC0415  # JAX, which whoever only plans a pipeline does not need

        if task not in (None, "query", "document"):
            raise InputError(f"task {task!r} does not exist; it can be query or document")
        if bad_rows not in get_args(BadRows):
            raise InputError(f"bad_rows {bad_rows!r} does not exist; it can be {', '.join(get_args(BadRows))}")
        embedder = load_embedder(model, **options)
        self._text_column, self._output_column, self._bad_rows = text_column, output_column, bad_rows
        self._dimension = embedder.embedding_dimension
        by_task = {None: embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        self._encode = by_task[task]
        self._options: BlockOptions = {
            "prompt_name": prompt_name,
            "prompt": prompt,
            "normalize_embeddings": normalize_embeddings,
            "show_progress_bar": False,
        }

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return a batch with its vectors.

        Args:
            batch: columns as numpy arrays, as Ray Data gives them by default; texts of dtype object or str, (n,).

        Returns:
            the same columns, and ``output_column``: float32 (n, D).

        Raises:
            InputError: there is no such column; or, with ``bad_rows="fail"``, a row is null or not text.
        """
        if not isinstance(batch, dict):
            raise InputError(
                f"a batch must be a dict of numpy arrays (batch_format='numpy'), not {type(batch).__name__}"
            )
        if self._text_column not in batch:
            raise InputError(
                f"the batch has no column {self._text_column!r}; it has {', '.join(map(repr, batch)) or 'none'}"
            )
        column = batch[self._text_column]
        if not isinstance(column, np.ndarray) or column.ndim != 1:
            raise InputError(f"the column {self._text_column!r} must be an array of texts, not {type(column).__name__}")
        values = column.tolist()
        good = [place for place, value in enumerate(values) if _is_text(value)]
        if len(good) < len(values) and self._bad_rows == "fail":
            place = next(place for place, value in enumerate(values) if not _is_text(value))
            what = "has a lone surrogate" if isinstance(values[place], str) else "is no text"
            raise InputError(
                f"row {place} of a batch of {len(values)}{_known_by(batch, place, self._text_column)}: "
                f"{self._text_column!r} {what}: {values[place]!r:.40}; bad_rows='nan' gives such rows NaN"
            )
        vectors = np.full((len(values), self._dimension), np.nan, np.float32)
        if good:
            vectors[good] = self._encode([values[place] for place in good], **self._options)
        return {**batch, self._output_column: vectors}


def _is_text(value: object) -> bool:
    """Return whether a value is text that a tokenizer can take."""
    return isinstance(value, str) and lone_surrogate(value) is None


def _known_by(batch: Mapping[str, NDArray[Any]], place: int, text_column: str) -> str:
    """Return the values of a row's other columns, to identify it: a batch does not know its place in the dataset."""
    found = [
        f"{name} = {str(values[place])!r:.40}"
        for name, values in batch.items()
        if name != text_column and np.ndim(values) == 1 and len(values) > place
    ]
    return f" ({', '.join(found[:3])})" if found else ""
