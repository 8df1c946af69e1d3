"""Execution: from texts to token ids to vectors, with batches, batch shapes and devices."""
