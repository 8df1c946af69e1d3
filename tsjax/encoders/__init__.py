"""Encoders: what a user holds."""
