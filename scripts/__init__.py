"""Programs for developing tsjax; run them from the root of a checkout."""
