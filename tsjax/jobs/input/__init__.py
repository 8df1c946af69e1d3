"""Input of jobs, from files to rows: sources, formats, readers and columns."""
