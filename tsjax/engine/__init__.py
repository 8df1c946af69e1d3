"""Texts to token ids to vectors: batches, shapes, devices, execution."""
