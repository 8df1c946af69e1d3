"""Shared parts of the lab's reports: optional packages, figures and tables."""
