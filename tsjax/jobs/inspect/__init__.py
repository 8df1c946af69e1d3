"""Inspection of an output: status, verification, search."""
