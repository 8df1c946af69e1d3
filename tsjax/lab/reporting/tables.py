"""CSV tables."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV under a header line of their keys; None becomes an empty cell.

    All rows have the same keys, and there is at least one row.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
