"""Markdown tables of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lasttoken_perf.row_fields import REMAINDERS


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def median(point: Mapping[str, Any], name: str, form: str) -> str:
    """Return a figure's median as text; a dash where it was not measured, or says nothing."""
    if name not in point or (name in REMAINDERS and point[name]["median"] < 0):
        return "-"
    return format(point[name]["median"], form)
