"""The one form of all results: a self-describing JSON object with raw rows.

    schema     number of this form, `SCHEMA`
    kind       which command took it: "latency", "sweep", "peers", "profile", "gpu" ...
    what       one sentence
    taken_at   UTC, ISO 8601
    command    the command line
    revision   {"commit", "dirty"} of the checkout, None outside one
    machine    `machine.describe_machine`: processor, cores, memory, GPUs, versions
    model      {"name", "triton_name", "precision", "runtime", "dimensions", ...}
    workload   {"distribution", "texts", "tokens", "token_lengths", "seed", "sha256"}; of latency
               and sweep one such object a distribution. With "counted_texts" (those whose tokens
               the server told) tokens and lengths are of these, and "truncated_texts" says how
               many of them the model cut
    settings   what else decided the figures
    checks     what was verified of the answers, and how far they were off
    rows       one flat object a repeat and load point; its fields are those of `FIELDS`
    summary    rows that differ only in their repeat, each figure as {"min", "median", "max"}
    interrupted  only of a measurement that a signal or an error ended: which, and what was finished

A field that a row lacks was not measured; a figure is never zero for that reason. Readers (the
report, the planner's calibration points) select rows by ``subject``, ``precision``, ``load`` and
``device`` and leave out those with ``discarded``.
"""

from __future__ import annotations

import datetime
import json
import math
import reprlib
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import MalformedResult
from lasttoken_perf.machine import describe_machine, git_revision
from lasttoken_perf.row_fields import FIELDS, NUMBERS_OF_A_POINT

SCHEMA = 1

Row = dict[str, Any]

_SECTIONS: tuple[tuple[str, type, str], ...] = (
    ("kind", str, "a word"),
    ("what", str, "a sentence"),
    ("taken_at", str, "a time"),
    ("machine", Mapping, "an object"),
    ("rows", list, "a list"),
    ("summary", list, "a list"),
)
"""What a result must have, and in which form."""


def make_result(
    *,
    kind: str,
    what: str,
    rows: Sequence[Row],
    model: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    checks: Mapping[str, Any] | None = None,
    packages: Iterable[str] = (),
    interrupted: str | None = None,
) -> dict[str, Any]:
    """Put a result together.

    Args:
        kind: Which command took it.
        what: One sentence.
        rows: The raw rows.
        model: What was served.
        workload: What was sent.
        settings: What else decided the figures.
        checks: What was verified.
        packages: Distributions whose version matters, besides the usual ones.
        interrupted: What ended the measurement before its end; None where nothing did.

    Raises:
        MalformedResult: A row has a field that `FIELDS` does not document.
    """
    result = {
        "schema": SCHEMA,
        "kind": kind,
        "what": what,
        "taken_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["lasttoken-perf", *sys.argv[1:]]),
        "revision": git_revision(),
        "machine": describe_machine(packages),
        "model": dict(model or {}),
        "workload": dict(workload or {}),
        "settings": dict(settings or {}),
        "checks": dict(checks or {}),
        "rows": [dict(row) for row in rows],
        "summary": summarise(rows),
        **({} if interrupted is None else {"interrupted": interrupted}),
    }
    check_result(result)
    return result


def check_result(result: Mapping[str, Any]) -> None:
    """Check that an object has the form of this module.

    Raises:
        MalformedResult: It has not; the message names the place.
    """
    if result.get("schema") != SCHEMA:
        raise MalformedResult(f"schema is {result.get('schema')!r}, this version reads {SCHEMA}")
    for name, form, said in _SECTIONS:
        if name not in result:
            raise MalformedResult(f"the result has no {name!r}")
        if not isinstance(result[name], form):
            raise MalformedResult(f"{name} is {reprlib.repr(result[name])}, which is not {said}")
    for number, row in enumerate(result["rows"]):
        if not isinstance(row, Mapping):
            raise MalformedResult(f"row {number} is {reprlib.repr(row)}, which is not an object")
        for name, value in row.items():
            if name not in FIELDS:
                raise MalformedResult(
                    f"row {number} has the field {name!r}, which FIELDS does not document"
                )
            if not isinstance(value, str | int | float):
                raise MalformedResult(f"row {number}: {name} is {reprlib.repr(value)}, no value")
            if isinstance(value, float) and not math.isfinite(value):
                raise MalformedResult(f"row {number}: {name} is {value!r}; leave it out")
    for number, point in enumerate(result["summary"]):
        _check_point(number, point)


def _check_point(number: int, point: object) -> None:
    """Check a point of the summary: words, numbers of a point, and spreads of figures."""
    if not isinstance(point, Mapping):
        raise MalformedResult(f"point {number} of the summary is {reprlib.repr(point)}")
    for name, value in point.items():
        if name == "repeats" or _describes(name, value):
            continue
        if not isinstance(value, Mapping) or not all(
            isinstance(value.get(part), int | float) for part in ("min", "median", "max")
        ):
            raise MalformedResult(
                f"point {number} of the summary: {name} is {reprlib.repr(value)}, which has no "
                "min, median and max"
            )


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        MalformedResult: The file is not one.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MalformedResult(f"{path} cannot be read as JSON: {error}") from None
    try:
        check_result(result)
    except MalformedResult as error:
        raise MalformedResult(f"{path}: {error}") from None
    return result


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Put together the repeats of a point; rows with ``discarded`` count for nothing.

    Returns:
        One object a point, in order of first appearance: what the point is, ``repeats``, and each
        figure's `spread`.
    """
    points: dict[tuple[tuple[str, Any], ...], list[Row]] = {}
    for row in rows:
        if "discarded" not in row:
            point = tuple((name, row[name]) for name in row if _describes(name, row[name]))
            points.setdefault(point, []).append(row)
    summary = []
    for point, repeats in points.items():
        names = {name: None for row in repeats for name in row}
        figures = {
            name: spread([row[name] for row in repeats if name in row])
            for name in names
            if name != "repeat" and name not in dict(point)
        }
        summary.append({**dict(point), "repeats": len(repeats), **figures})
    return summary


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return smallest, median and largest of at least one value."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _describes(name: str, value: object) -> bool:
    return name in NUMBERS_OF_A_POINT or isinstance(value, str)
