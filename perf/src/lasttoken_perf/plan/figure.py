"""A figure with what it rests on, so that no estimate is taken for a measurement."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Basis(enum.Enum):
    """What a figure rests on; of figures combined the weakest counts."""

    MEASURED = "measured"
    PUBLISHED = "published"
    COMPUTED = "computed"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, its unit and its basis.

    Attributes:
        value: The number.
        unit: Unit, such as ``GB`` (10^9 bytes) or ``tokens/s``.
        basis: What it rests on.
        source: Where a measured or published number is from; empty for a computed one.
    """

    value: float
    unit: str
    basis: Basis = Basis.COMPUTED
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return ``{"value", "unit", "basis"}``, and ``source`` where there is one."""
        plain = {"value": self.value, "unit": self.unit, "basis": self.basis.value}
        return plain | ({"source": self.source} if self.source else {})

    def mark(self) -> str:
        """First letter of the basis, for tables."""
        return self.basis.value[0]
