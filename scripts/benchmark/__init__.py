"""The speed beside other engines."""
