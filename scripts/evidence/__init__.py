"""Whether a temperature helps: the studies behind docs/evidence.md."""
