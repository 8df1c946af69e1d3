"""Digest of rows, with which a shard's record identifies the texts of the shard, independently of their files."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tsjax.jobs.input.columns import Row

if TYPE_CHECKING:
    from tsjax.jobs.input.columns import Rejection

# Times, decimals and similar values are encoded as text. pyarrow's objects for time zones differ between machines only
# in type, not in their text.
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


class RowsDigest:
    """A BLAKE2b digest of the ids, texts and kept values of rows, in order.

    A rejected row contributes only the fact that it is rejected. The digest does not depend on the storage of the rows,
    on the number of rows that are read at a time, or on their position in a file.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, row: Row | Rejection) -> None:
        """Add a row to the digest."""
        if not isinstance(row, Row):
            self._hash.update(b"!")
            return
        kept = _ENCODER.encode(row.kept) if row.kept else ""
        # The lengths keep the boundaries between values and rows unambiguous.
        content = f"{len(row.id)}:{row.id}{len(row.text)}:{row.text}{len(kept)}:{kept}"
        self._hash.update(content.encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """Return the digest of the rows so far: 32 hexadecimal digits."""
        return self._hash.hexdigest()
