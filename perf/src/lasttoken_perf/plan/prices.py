"""Prices of GPU hours, from a file that the user can edit: they move every day."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import InvalidPrices
from lasttoken_perf.plan.devices import load_devices

_COLUMNS = ("gpu", "provider", "tier", "usd_per_hour", "listed", "source")
RECLAIMABLE_TIERS = ("spot", "interruptible", "community")
"""Tiers whose machines can be taken back at any time."""
TIERS = ("on-demand", "reserved", *RECLAIMABLE_TIERS)
"""All tiers; another spelling would be counted as one that is never taken back."""
_MOST_USD_PER_HOUR = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an hour of one device costs somewhere.

    Attributes:
        gpu: Name of the device.
        provider: Who rents it out.
        tier: One of `TIERS`.
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
        InvalidPrices: The file cannot be read, a row is malformed, or it names a GPU or a tier
            that is not known.
    """
    shipped = resources.files("lasttoken_perf.plan") / "data" / "prices.csv"
    try:
        text = (path or shipped).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPrices(f"the price file {str(path)!r} cannot be read: {error}") from None
    rows = csv.DictReader(text.splitlines())
    try:
        if tuple(rows.fieldnames or ()) != _COLUMNS:
            raise InvalidPrices(
                f"{path}: columns are {rows.fieldnames!r}; they must be {', '.join(_COLUMNS)}"
            )
        return tuple(_price(rows.line_num, row) for row in rows)
    except csv.Error as error:  # the line that it stands in is not counted yet
        raise InvalidPrices(
            f"line {rows.line_num + 1} of the price file is no CSV: {error}"
        ) from None


def _price(line: int, row: Mapping[Any, Any]) -> Price:
    where = f"line {line} of the price file"
    try:
        usd = float(row["usd_per_hour"])
    except (TypeError, ValueError):
        usd = -1.0
    # What a row has beyond the columns is kept under None.
    complete = None not in row and all(row.get(name) for name in _COLUMNS)
    if not complete or not 0 <= usd <= _MOST_USD_PER_HOUR:
        raise InvalidPrices(
            f"{where} is {row!r}; every column needs a value, a value with a comma in it quotes, "
            f"and usd_per_hour a number from 0 to {_MOST_USD_PER_HOUR:,.0f}"
        )
    tier = row["tier"].strip().lower()
    gpus = [device.name for device in load_devices()]
    for name, value, known in (("gpu", row["gpu"], gpus), ("tier", tier, TIERS)):
        if value not in known:
            raise InvalidPrices(f"{where}: {name} is {row[name]!r}; known are {', '.join(known)}")
    return Price(**{**row, "tier": tier, "usd_per_hour": usd})


def cheapest(prices: Sequence[Price], gpu: str, *, reclaimable: bool) -> Price | None:
    """Lowest price of a device.

    Args:
        prices: All prices.
        gpu: Name of the device.
        reclaimable: Whether machines that can be taken back at any time will do.
    """
    usable = [p for p in prices if p.gpu == gpu and (reclaimable or not p.reclaimable)]
    return min(usable, key=lambda price: price.usd_per_hour, default=None)
