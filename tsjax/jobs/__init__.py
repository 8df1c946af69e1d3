"""A corpus on disk to vectors on disk."""
