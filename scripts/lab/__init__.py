"""Data for the lab, and the paper's experiment."""
