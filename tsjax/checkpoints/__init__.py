"""The directory format of a converted checkpoint."""
