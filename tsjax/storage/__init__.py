"""Atomic writes, digests, cache directories and the compile cache."""
