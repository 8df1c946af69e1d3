"""The temperature lab: analysis, evaluation and learning."""
