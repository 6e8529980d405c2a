"""Benchmarks of lasttoken servers; see `lasttoken-perf --help`."""
