"""Temperature lab: analysis, evaluation and learning."""
