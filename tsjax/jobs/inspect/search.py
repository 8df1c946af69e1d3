"""Exact search over a job's shards. Every vector is compared with the query, one block at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tsjax.encoders.similarity import Similarity, similarity, top_indices
from tsjax.errors import CheckpointError, InputError
from tsjax.jobs.inspect.status import status
from tsjax.jobs.output.precision import to_float
from tsjax.jobs.output.shards import Layout, read_shard
from tsjax.validation.numbers import whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.jobs.output.directory import Output


class Hit(NamedTuple):
    """A row that was found: its similarity, its id, and its other columns."""

    score: float
    id: str
    columns: dict[str, Any]


def search(
    output: Output,
    query: NDArray[np.float32],
    count: int = 10,
    name: Similarity = "cosine",
    *,
    partial: bool = False,
) -> list[Hit]:
    """Find the rows whose vectors are most similar to a query, the best first. Ties keep the order of the rows.

    Args:
        output: the output of the job.
        query: float32 (D,).
        count: number of rows to return.
        name: the similarity function; see `tsjax.encoders.similarity`. Quantised vectors are as accurate as their
            steps allow.
        partial: search the existing shards of an unfinished output, instead of raising an error.

    Raises:
        InputError: there is no job, or the query has another dimension.
        CheckpointError: the output is not finished and ``partial`` is not set; a shard differs from its record, or
            cannot be read.
    """
    if not partial and (missing := status(output, ask_locks=False).missing):
        raise CheckpointError(f"{output.path} is not finished, so it cannot be searched as a whole: {missing[0]}")
    job, wanted = output.job(), whole_number("count", count)
    layout = Layout.recorded(job)
    if query.shape != (layout.dimension,):
        raise InputError(f"the query has the shape {query.shape}, and the vectors have {layout.dimension} dimensions")
    best: list[Hit] = []
    for key in output.record_keys():
        record = output.read_record(key)
        if record is None or record.job != job.fingerprint:
            raise CheckpointError(
                f"{output.record_file(key)} cannot be read, or is of another job; the job's command repairs it"
            )
        if not output.is_whole(record):
            names = " and ".join(str(output.vectors / file.name) for file in record.files)
            raise CheckpointError(f"{names}: missing, cut or changed since then; the job's command repairs it")
        for block in read_shard(layout, output.vectors, key, rest=True):
            vectors = to_float(block.vectors, layout.precision, layout.dimension, job.ranges)
            if not len(vectors):
                continue
            scores = similarity(query[None], vectors, name)[0]
            assert block.rest is not None  # requested by rest=True
            # Earlier hits go first, so that ties keep the order of the rows.
            rows = top_indices(scores, wanted).tolist()
            found = [*best, *(Hit(float(scores[row]), block.ids[row], block.rest[row]) for row in rows)]
            best = [found[place] for place in top_indices(np.array([hit.score for hit in found]), wanted)]
    return best
