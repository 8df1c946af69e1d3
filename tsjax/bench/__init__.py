"""Benchmarks: workloads, operation counts, the machine."""
