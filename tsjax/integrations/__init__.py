"""Adapters to other packages' protocols."""
