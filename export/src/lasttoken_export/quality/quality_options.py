"""What the caller of an export chooses about its comparison with fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lasttoken_export.errors import InvalidOption

SETS = ("debian", "python")
"""Retrieval sets that `sets.open_set` knows by name."""
EXPORT_PAIRS = 128
"""Pairs that an export is measured on; `verify` takes thousands."""
VERIFY_PAIRS = 2000
"""Pairs that ``verify`` measures on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityOptions:
    """What the caller of an export chooses about its comparison with fp32.

    Attributes:
        retrieval_set: Name of a set, or path of a file of pairs.
        pairs: How many of its pairs; 0 to measure nothing, which the card says.
        accepted: Bounds that replace the gate's, by figure; None for any value.
        cache_folder: Where texts and vectors are kept; None for the default.

    Raises:
        InvalidOption: ``pairs`` is 1 or negative.
    """

    retrieval_set: str = "python"
    pairs: int = EXPORT_PAIRS
    accepted: Mapping[str, float | None] = field(default_factory=dict)
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.pairs != 0 and self.pairs < 2:
            raise InvalidOption(f"{self.pairs!r} pairs are too few to rank; choose 2 or more, or 0")
