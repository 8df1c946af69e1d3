"""Exact search over a job's shards: every vector is compared with the query, a block at a time."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tsjax.errors import InputError
from tsjax.jobs.precision import to_float
from tsjax.jobs.shards import Layout, read_shard
from tsjax.settings import positive
from tsjax.similarity import Similarity, similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tsjax.jobs.records import Output


class Hit(NamedTuple):
    """A row that was found: how alike it is, its id, and its other columns."""

    score: float
    id: str
    columns: dict[str, Any]


def search(output: Output, query: NDArray[np.float32], count: int = 10, name: Similarity = "cosine") -> list[Hit]:
    """The rows whose vectors are most like a query's, the best first; of equals, the one that came first.

    Args:
        output: the job's.
        query: float32 (D,).
        count: how many.
        name: how vectors are compared; see `tsjax.similarity`. Quantised ones are as near as their steps allow.

    Raises:
        InputError: there is no job, or the query has other dimensions.
        CheckpointError: a shard that cannot be read.
    """
    job, wanted = output.job(), positive("count", count)
    layout = Layout.recorded(job)
    if query.shape != (layout.dimension,):
        raise InputError(f"the query has the shape {query.shape}, and the vectors have {layout.dimension} dimensions")
    best: list[tuple[float, int, Hit]] = []
    order = itertools.count()
    for key in output.record_keys():
        for block in read_shard(layout, output.vectors, key, rest=True):
            vectors = to_float(block.vectors, layout.precision, layout.dimension, job.ranges)
            if not len(vectors):
                continue
            scores = similarity(query[None], vectors, name)[0]
            for place in np.argsort(-scores, kind="stable")[:wanted].tolist():
                assert block.rest is not None  # asked for
                hit = Hit(float(scores[place]), block.ids[place], block.rest[place])
                entry = (hit.score, -next(order), hit)
                if len(best) < wanted:
                    heapq.heappush(best, entry)
                elif entry[0] > best[0][0]:
                    heapq.heapreplace(best, entry)
                else:
                    break
    return [hit for _, _, hit in sorted(best, key=lambda entry: (-entry[0], -entry[1]))]
