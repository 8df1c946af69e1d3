"""A digest of rows: by it a shard's record says which texts the shard was made of, whatever file they lie in."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from tsjax.jobs.input.columns import Row

if TYPE_CHECKING:
    from tsjax.jobs.input.columns import Rejection

# Times, decimals and the like as text; what pyarrow makes of a time zone differs from machine to machine only in type.
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


class RowsDigest:
    """BLAKE2b of ids, texts and kept values of rows, in order; of a rejected row only that it is one.

    It does not depend on how the rows are stored, on how many are read at a time, or on where they begin in a file.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, row: Row | Rejection) -> None:
        """Count a row."""
        if not isinstance(row, Row):
            self._hash.update(b"!")
            return
        kept = _ENCODER.encode(row.kept) if row.kept else ""
        # With the lengths, so that no two rows look like two others.
        content = f"{len(row.id)}:{row.id}{len(row.text)}:{row.text}{len(kept)}:{kept}"
        self._hash.update(content.encode("utf-8", "surrogatepass"))

    def hexdigest(self) -> str:
        """The digest so far: 32 hexadecimal digits."""
        return self._hash.hexdigest()
