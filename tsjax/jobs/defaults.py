"""Default values that the command line shows, in a module without expensive imports."""

from __future__ import annotations

# A GPU embeds 16,384 texts in seconds, a CPU in minutes. Their float32 vectors take 25 MB at 384 dimensions.
ROWS_PER_SHARD = 16384

# 16 MiB of UTF-8: about `ROWS_PER_SHARD` rows of 1,000 letters, or some 4 million tokens. A CPU needs minutes for them
# where texts are long.
BYTES_PER_SHARD = 1 << 24


def bytes_per_shard(rows_per_shard: int) -> int:
    """Return the default bytes of text in a shard: `BYTES_PER_SHARD`, or more for more rows than usual."""
    return max(BYTES_PER_SHARD, 1024 * rows_per_shard)


CALIBRATION_ROWS = 4096
