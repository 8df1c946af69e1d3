"""Reading an output: status, verification, search."""
