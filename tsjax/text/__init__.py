"""Tokenising of texts and of pairs of texts; independent of the network."""
