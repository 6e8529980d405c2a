"""What the caller of an export chooses about a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChoices:
    """What the caller chooses about a plan.

    Attributes:
        compute_capability: Of the GPU that will run it, as ``8.9``; None for the one at hand.
        weight_streaming: Whether weights may stay in the host's memory.
        cache_folder: Where plans and timings are kept; None for ``~/.cache/lasttoken``.
        use_cache: Whether a plan built before is taken, and a new one kept.
        keep_graph: Whether encoder.onnx stays beside the plan.
    """

    compute_capability: str | None = None
    weight_streaming: bool = False
    cache_folder: Path | None = None
    use_cache: bool = True
    keep_graph: bool = False

    @property
    def plans_folder(self) -> Path:
        """Folder of the plans and timings kept."""
        return (self.cache_folder or Path.home() / ".cache" / "lasttoken") / "plans"
