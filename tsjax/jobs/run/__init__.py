"""A worker's loop from rows to shards."""
