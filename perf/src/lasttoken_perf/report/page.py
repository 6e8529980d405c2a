"""Assembles the page: for each result its provenance, its plots and its tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import MalformedResult, MissingLibrary
from lasttoken_perf.report.plan_table import plan_tables
from lasttoken_perf.report.plots import PLOTS
from lasttoken_perf.results import check_result
from lasttoken_perf.row_fields import FIELDS, REMAINDERS

_TITLES = {
    "latency": "Latency and throughput",
    "sweep": "Latency against load",
    "peers": "Against other tools",
    "overload": "Beyond the sustained load",
    "precisions": "Precisions: speed and quality",
    "profile": "Where a request's time goes",
    "gpu": "On a GPU",
    "quality": "Quality of served models",
    "modelopt": "Calibration beside nvidia-modelopt",
    "plans": "TensorRT plans",
    "corpus": "Embedding a corpus",
    "soak": "Under load for long",
    "faults": "Faults on a live server",
    "export": "Exporting",
    "client": "The client",
    "gateway-overhead": "The gateway",
    "plan": "Capacity plan",
    "record": "Other measurements",
}
"""Headings of the kinds of results, in the order of the page."""


_SHOWN_ELSEWHERE = frozenset({
    "schema", "kind", "file", "what", "taken_at", "machine", "revision", "command", "interrupted",
    "rows", "summary", "plans", "claims",
})  # fmt: skip
"""Parts of a result that its section shows in another form than as figures and lists."""


_WITHOUT_ROWS = ("record", "plan", "soak", "faults", "export")
"""Kinds whose figures are parts of the result by name, and lists of objects."""


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read result files and, beside them, JSON records without rows.

    Raises:
        MalformedResult: A file is not JSON, or is a result that does not keep to its form.
    """
    results = []
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MalformedResult(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(result, dict):
            raise MalformedResult(f"{path} holds no JSON object")
        if "schema" in result:
            try:
                check_result(result)
            except MalformedResult as error:
                raise MalformedResult(f"{path}: {error}") from None
        elif not isinstance(result.get("what"), str):
            raise MalformedResult(f"{path} is no result of lasttoken-perf: it has no 'what'")
        else:
            result = {**result, "kind": "record"}
        results.append({**result, "file": path.name})
    return results


def render_page(results: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Return the page: no script, nothing fetched, readable on a phone.

    Args:
        results: Of `read_results`.
        title: Its heading.

    Raises:
        MalformedResult: A result's own parts, which no schema holds, are not those of its kind.
        MissingLibrary: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError:
        raise MissingLibrary(
            "the report needs jinja2: pip install 'lasttoken-perf[plots]'"
        ) from None
    source = (resources.files("lasttoken_perf.report") / "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.Undefined)
    order = list(_TITLES)
    sections = []
    for result in results:
        try:
            sections.append(_section(result))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise MalformedResult(
                f"{result['file']} is no result of the kind {result['kind']!r} as lasttoken-perf "
                f"writes it: {error!r}"
            ) from None
    sections.sort(key=lambda section: order.index(section["kind"]))
    headings = Counter(section["heading"] for section in sections)
    for section in sections:
        if headings[section["heading"]] > 1:
            section["heading"] += f": {section['stem']}"
    page: str = environment.from_string(source).render(title=title, sections=sections)
    return page


def _section(result: Mapping[str, Any]) -> dict[str, Any]:
    kind = result["kind"] if result["kind"] in _TITLES else "record"
    plots = []
    for heading, draw in PLOTS.get(kind, ()):
        drawing = draw(result)
        if drawing is not None:
            plots.append({"heading": heading, "svg": drawing})
    return {
        "kind": kind,
        "stem": Path(result["file"]).stem,
        "heading": _TITLES[kind],
        "what": result.get("what", result["file"]),
        "provenance": list(_provenance(result)),
        "plots": plots,
        "tables": list(_tables(result)),
        "unavailable": dict(result.get("unavailable") or {}),
        "interrupted": result.get("interrupted"),
        "discarded": [r for r in result.get("rows", ()) if "discarded" in r],
    }


def _provenance(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine = result.get("machine") or {}
    gpus = ", ".join(str(gpu.get("name", gpu)) for gpu in machine.get("gpus") or ())
    processor = f"{machine.get('cores', '?')} cores of {machine.get('processor', '?')}"
    packages = ", ".join(f"{k} {v}" for k, v in (machine.get("packages") or {}).items())
    model = result.get("model")
    if isinstance(model, Mapping):
        model = ", ".join(
            str(v) for k, v in model.items() if k in ("name", "model", "precision", "runtime")
        )
    revision = result.get("revision") or {}
    commit = str(revision.get("commit", ""))[:12]
    if commit and revision.get("dirty"):
        commit += " with changes"
    for name, value in (
        ("model", model), ("machine", gpus or (processor if machine else "")),
        ("versions", packages), ("taken", result.get("taken_at")),
        ("command", result.get("command")), ("revision", commit), ("file", result["file"]),
    ):  # fmt: skip
        if value:
            yield name, str(value)


def _tables(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("ratios", "bars"):
        spreads = result.get(name)
        if isinstance(spreads, Mapping) and spreads:
            yield {
                "heads": [name.removesuffix("s"), "median", "min", "max"],
                "rows": [
                    [key, *(_cell(value.get(part)) for part in ("median", "min", "max"))]
                    for key, value in spreads.items()
                    if isinstance(value, Mapping)
                ],
            }
    summary = result.get("summary") or []
    if summary:
        columns = [name for name in FIELDS if any(name in point for point in summary)]
        columns = [name for name in columns if name not in ("repeat", "discarded", "seconds")]
        shared = _shared_words(summary, columns)
        columns = [name for name in columns if name not in shared]
        yield {
            "shared": ", ".join(
                f"{name.replace('_', ' ')} {value}" for name, value in shared.items()
            ),
            "heads": [column.replace("_", " ") for column in columns],
            "rows": [[_figure(column, point.get(column)) for column in columns]
                     for point in summary],
            "notes": list(_notes(summary)),
        }  # fmt: skip
    elif result["kind"] in _WITHOUT_ROWS:
        parts = {name: part for name, part in result.items() if name not in _SHOWN_ELSEWHERE}
        yield {"heads": ["figure", "value"], "rows": list(_flat(parts))}
        for name, part in parts.items():
            if _is_table(part):
                yield _list_table(name, part)
    yield from plan_tables(result)


def _notes(summary: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name in REMAINDERS:
        if any(_says_nothing(name, point.get(name)) for point in summary):
            yield f"{name.replace('_', ' ')} -: below zero. It is {FIELDS[name]}."


def _says_nothing(name: str, value: Any) -> bool:
    return name in REMAINDERS and isinstance(value, Mapping) and bool(value["median"] < 0)


def _figure(name: str, value: Any) -> str:
    return "-" if _says_nothing(name, value) else _cell(value)


def _shared_words(points: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """Columns that say the same word of all points: a table is narrow enough without them."""
    found = {name: {point.get(name) for point in points if not isinstance(point.get(name), Mapping)}
             for name in columns}  # fmt: skip
    return {
        name: word
        for name, values in found.items()
        if len(points) > 1 and len(values) == 1 and isinstance(word := next(iter(values)), str)
    }


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _list_table(name: str, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a list of objects as a table; a field of some alone is a dash in the others."""
    rows = [dict(_flat(item)) for item in items]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {
        "caption": name.replace("_", " "),
        "heads": [column.replace("_", " ") for column in columns],
        "rows": [[row.get(column, "-") for column in columns] for row in rows],
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            if inner.keys() >= {"min", "median", "max"}:
                yield [f"{prefix}{name}", _cell(inner)]
            else:
                yield from _flat(inner, f"{prefix}{name}: ")
        elif isinstance(inner, str | int | float | bool) or inner is None:
            yield [f"{prefix}{name}", _cell(inner)]
        elif isinstance(inner, list) and inner and not _is_table(inner):
            yield [f"{prefix}{name}", ", ".join(map(_cell, inner))]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        low, middle, high = (_number(value[name]) for name in ("min", "median", "max"))
        return middle if low == high else f"{middle} ({low} to {high})"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return _number(value)


def _number(value: float) -> str:
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
