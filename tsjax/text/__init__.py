"""From text to padded token ids: tokenising, and batches of few shapes. Knows nothing of the network."""
