"""Defaults that the command line shows, where nothing heavy is imported."""

from __future__ import annotations

# A GPU embeds so many texts in seconds, a processor in minutes; float32 vectors of 384 numbers take 25 MB.
ROWS_PER_SHARD = 16384

CALIBRATION_ROWS = 4096
