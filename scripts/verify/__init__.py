"""Parity figures, golden files and the assets that they need."""
