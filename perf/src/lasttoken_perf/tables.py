"""Markdown tables of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lasttoken_perf.row_fields import REMAINDERS

_TRACEBACK = "Traceback (most recent call last):"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; bars within its cells are escaped."""
    escaped = "\\|"
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', escaped) for cell in row)} |"


def median(point: Mapping[str, Any], name: str, form: str) -> str:
    """Return a figure's median as text; a dash where it was not measured, or says nothing."""
    if name not in point or (name in REMAINDERS and point[name]["median"] < 0):
        return "-"
    return format(point[name]["median"], form)


def in_short(reason: str) -> str:
    """Return a reason on one line: what failed and, of output or a traceback, its last words."""
    first, *output = [line.strip() for line in reason.splitlines() if line.strip()] or [""]
    if not output or not first.endswith(":"):
        return first
    return f"{first.removesuffix(_TRACEBACK).rstrip()} {output[-1]}".lstrip()
