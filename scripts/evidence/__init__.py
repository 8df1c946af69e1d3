"""The studies behind docs/evidence.md, which test if a temperature helps."""
