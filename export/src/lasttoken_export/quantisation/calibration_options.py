"""What the caller of an export chooses about its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lasttoken_export.errors import InvalidOption


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """What the caller of an export chooses about its calibration.

    Attributes:
        texts: File of texts; None for those shipped with the exporter.
        seed: Decides which tokens are sampled.
        folder: Where calibrations are kept; None for beside the checkpoint.
        cache_folder: Where they are kept if that is read-only; None for the default.

    Raises:
        InvalidOption: The seed is below 0.
    """

    texts: Path | None = None
    seed: int = 0
    folder: Path | None = None
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InvalidOption(f"the calibration's seed is {self.seed}; choose 0 or more")

    @property
    def chosen(self) -> list[str]:
        """Names of what is not left at its default, the cache folder aside."""
        return [name for name in ("texts", "seed", "folder") if getattr(self, name)]
