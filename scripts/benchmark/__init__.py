"""A benchmark of tsjax against other engines."""
