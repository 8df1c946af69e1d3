"""The network: pure functions and small flax.nnx modules. No files, no network access, no text."""
