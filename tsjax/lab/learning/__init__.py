"""Learning: temperatures, and by choice weights, from pairs of a query and a text that answers it."""
