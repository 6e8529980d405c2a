"""Which of the planner's devices a GPU is, by the name that its driver reports."""

from __future__ import annotations

import re

from lasttoken_perf.plan.devices import Device, load_devices

_REPORTED: tuple[tuple[str, str], ...] = (
    (r"Tesla T4|\bT4\b", "T4"),
    (r"\bL40S\b", "L40S"),
    (r"\bL4\b", "L4"),
    (r"\bA10G\b", "A10G"),
    (r"\bA30\b", "A30"),
    (r"A100.*80GB", "A100-80GB-SXM"),
    (r"A100.*40GB", "A100-40GB"),
    (r"RTX 3070$", "RTX 3070"),
    (r"RTX 4060$", "RTX 4060"),
    (r"RTX 4090$", "RTX 4090"),
    (r"RTX 5070 Ti$", "RTX 5070 Ti"),
    (r"RTX 5090$", "RTX 5090"),
    # "NVIDIA H100 80GB HBM3"; the PCIe card ("NVIDIA H100 PCIe") and the NVL are slower ones.
    (r"H100.*HBM3$", "H100-SXM"),
    (r"\bH200$", "H200"),
    (r"\bB200$", "B200"),
)
"""Patterns of reported names and names in ``data/devices.csv``; the first that matches counts."""


def device_of_reported_name(reported: str) -> Device | None:
    """Return the device; None for a GPU that the planner has no data sheet of."""
    for pattern, name in _REPORTED:
        if re.search(pattern, reported):
            return next(device for device in load_devices() if device.name == name)
    return None
