"""Shards, their records and the output directory."""
