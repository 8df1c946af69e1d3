"""Encoders: the objects that a user holds."""
