"""Files of any format, and the rows that are read from them."""

import contextlib

from tsjax.jobs.input.columns import Columns, Rejection, Row
from tsjax.jobs.input.formats import Reading
from tsjax.jobs.input.rows import open_rows
from tsjax.jobs.input.sources import find_sources


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(path, columns=None, skip=0, **reading):
    """Return the rows of a file, after skipping some."""
    chosen = columns or Columns()
    (source,) = find_sources([str(path)], Reading(**reading), columns=chosen.needed)
    with contextlib.closing(open_rows(source, chosen)) as reader:
        assert reader.skip(skip) == skip
        return list(reader.read())


def texts(rows):
    return [row.text for row in rows if isinstance(row, Row)]


def rejected_lines(rows):
    return [row.line for row in rows if isinstance(row, Rejection)]
