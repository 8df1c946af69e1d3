"""Parity figures, goldens and the assets that they need."""
