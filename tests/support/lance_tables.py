"""The rows of a job, from its shards and from a LanceDB table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.support.lazy import lazy
from tsjax.jobs.output.directory import Output
from tsjax.jobs.sinks import lance
from tsjax.jobs.sinks.loading import label
from tsjax.jobs.sinks.sink import open_sink

lancedb = lazy("lancedb")

KEYS = {True: ["id", "chunk"], False: ["id"]}


def stored(output, late=False):
    """Return the shards' rows, with the labels that a sink gives them, in a fixed order."""
    tables = []
    for key in Output(output).record_keys():
        table = pq.read_table(Path(output) / "vectors" / f"shard-{key}.parquet")
        labels = [label(Output(output).read_record(key))] * len(table)
        tables.append(table.append_column(lance.LABEL, pa.array(labels, pa.string())))
    return ordered(pa.concat_tables(tables), late)


def loaded(folder, late=False):
    """Return a table's rows, in the same order."""
    return ordered(lancedb.connect(folder).open_table("t").to_arrow(), late)


def ordered(table, late):
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in KEYS[late]])
    return table.take(order).combine_chunks()


def sink(folder, output):
    return open_sink(f"lancedb://{folder}/t", Output(output.path).job())


def versions(folder):
    return lancedb.connect(folder).open_table("t").version
