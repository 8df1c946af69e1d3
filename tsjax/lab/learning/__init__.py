"""Learning of temperatures, and optionally of weights, from pairs of a query and a text that answers it."""
