"""Checks of arguments: numbers, and the names of keywords."""
