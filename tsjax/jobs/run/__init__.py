"""The loop of a worker, which converts input rows to shards."""
