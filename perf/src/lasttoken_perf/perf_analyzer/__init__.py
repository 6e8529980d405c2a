"""NVIDIA's perf_analyzer: installing it, running it for one load point, reading what it saw."""
