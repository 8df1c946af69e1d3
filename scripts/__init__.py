"""Programs for working on tsjax; run them from the root of a checkout."""
