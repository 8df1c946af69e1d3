"""Benchmarks: workloads, operation counts, and facts about the machine."""
