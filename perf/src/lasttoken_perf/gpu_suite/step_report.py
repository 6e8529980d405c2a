"""What a step hands back, and the word for a step that cannot run on a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lasttoken_perf.errors import PerfError
from lasttoken_perf.results import Row


class StepUnavailable(PerfError):
    """A step cannot run on this machine; the message says what it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Result of a step.

    Attributes:
        rows: Its rows.
        checks: What it verified, and what it chose by itself.
    """

    rows: list[Row]
    checks: dict[str, Any] = field(default_factory=dict)
