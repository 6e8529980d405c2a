"""Prices of GPU hours, from a file that the user can edit: they move every day."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lasttoken_perf.errors import InvalidPrices

_COLUMNS = ("gpu", "provider", "tier", "usd_per_hour", "listed", "source")
RECLAIMABLE_TIERS = ("spot", "interruptible", "community")
"""Tiers whose machines can be taken back at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an hour of one device costs somewhere.

    Attributes:
        gpu: Name of the device.
        provider: Who rents it out.
        tier: ``on-demand``, ``reserved``, or one of `RECLAIMABLE_TIERS`.
        usd_per_hour: Price of an hour in US dollars.
        listed: When it was listed, ``YYYY-MM`` or ``YYYY-MM-DD``.
        source: Where.
    """

    gpu: str
    provider: str
    tier: str
    usd_per_hour: float
    listed: str
    source: str

    @property
    def reclaimable(self) -> bool:
        """Whether the machine can be taken back at any time."""
        return self.tier in RECLAIMABLE_TIERS


def load_prices(path: Path | None = None) -> tuple[Price, ...]:
    """Read a price file; None for the one of the package.

    Raises:
        InvalidPrices: The file cannot be read, or a row is malformed.
    """
    shipped = resources.files("lasttoken_perf.plan") / "data" / "prices.csv"
    try:
        text = (path or shipped).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPrices(f"the price file {str(path)!r} cannot be read: {error}") from None
    rows = csv.DictReader(text.splitlines())
    if tuple(rows.fieldnames or ()) != _COLUMNS:
        raise InvalidPrices(
            f"{path}: columns are {rows.fieldnames!r}; they must be {', '.join(_COLUMNS)}"
        )
    return tuple(_price(number, row) for number, row in enumerate(rows, start=2))


def _price(line: int, row: dict[str, str]) -> Price:
    try:
        usd = float(row["usd_per_hour"])
    except (TypeError, ValueError):
        usd = -1.0
    if not 0 <= usd < float("inf") or not all(row.get(name) for name in _COLUMNS):
        raise InvalidPrices(
            f"line {line} of the price file is {row!r}; every column needs a value, and "
            "usd_per_hour a number from 0"
        )
    return Price(**{**row, "usd_per_hour": usd})  # type: ignore[arg-type]


def cheapest(prices: Sequence[Price], gpu: str, *, reclaimable: bool) -> Price | None:
    """Lowest price of a device.

    Args:
        prices: All prices.
        gpu: Name of the device.
        reclaimable: Whether machines that can be taken back at any time will do.
    """
    usable = [p for p in prices if p.gpu == gpu and (reclaimable or not p.reclaimable)]
    return min(usable, key=lambda price: price.usd_per_hour, default=None)
