"""Directory format of a converted checkpoint."""
