"""The GPU suite: random weights of a model's exact shape, measured on one NVIDIA GPU.

It needs a checkout, torch and no network (docs/gpu.md). Every step runs in a process of its own.
"""
