"""Files to rows: sources, formats, readers, columns."""
