"""A real Triton Inference Server on this machine, without a container.

Importing this package starts nothing and fetches nothing; `LocalTriton` does both on entry.
"""

from __future__ import annotations

from lasttoken.local.server import LocalTriton
from lasttoken.local.supervisor import SupervisionOptions, Supervisor

__all__ = ["LocalTriton", "SupervisionOptions", "Supervisor"]
