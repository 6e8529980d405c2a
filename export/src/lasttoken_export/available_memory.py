"""How much memory this process may still take, on any system; the rules are the server's."""

from __future__ import annotations

from pathlib import Path

import psutil

from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module


def available_memory_bytes(mount: Path | None = None, of_process: Path | None = None) -> int:
    """Return the memory that can be had without swapping and within the container's limit.

    Args:
        mount: Where control groups are mounted; None for where Linux has them.
        of_process: Where the process's own are named; None likewise.
    """
    groups = server_module(ENCODER, "control_groups")
    available: int = server_module(ENCODER, "available_memory").available_memory_bytes(
        int(psutil.virtual_memory().available),
        mount or groups.MOUNT,
        of_process or groups.OF_PROCESS,
    )
    return available
