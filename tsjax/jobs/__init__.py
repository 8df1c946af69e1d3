"""Batch jobs that embed a corpus on disk and write the vectors to disk."""
