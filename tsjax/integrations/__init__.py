"""Adapters to the protocols of other packages."""
