"""Defaults that the command line shows, where nothing heavy is imported."""

from __future__ import annotations

# A GPU embeds so many texts in seconds, a processor in minutes; float32 vectors of 384 numbers take 25 MB.
ROWS_PER_SHARD = 16384

# Of UTF-8: about as many rows of 1,000 letters; some 4 million tokens, minutes of a CPU where texts are long.
BYTES_PER_SHARD = 1 << 24


def bytes_per_shard(rows_per_shard: int) -> int:
    """Return the default bytes of text in a shard: more than `BYTES_PER_SHARD` for more rows than usual."""
    return max(BYTES_PER_SHARD, 1024 * rows_per_shard)


CALIBRATION_ROWS = 4096
