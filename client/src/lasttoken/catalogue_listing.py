"""`lasttoken models --catalogue`: what the exporter knows, where it is installed."""

from __future__ import annotations

import json

from lasttoken.errors import LasttokenError


def catalogue_lines(*, as_json: bool) -> list[str]:
    """Return a line a model: name, dimensions, longest text, pooling, safe precisions, licence.

    Args:
        as_json: A JSON object a line, with the source too.

    Raises:
        LasttokenError: The exporter is not installed.
    """
    try:
        from lasttoken_export.catalogue import load_catalogue
    except ModuleNotFoundError as error:
        if error.name != "lasttoken_export":
            raise
        raise LasttokenError(
            "the catalogue comes with the exporter: pip install lasttoken-export"
        ) from error
    entries = load_catalogue().values()
    if as_json:
        return [
            json.dumps(
                {
                    "name": entry.name,
                    "source": dict(entry.source),
                    "licence": entry.licence.id,
                    "dimensions": entry.dimensions,
                    "max_length": entry.max_length,
                    "pooling": entry.pooling,
                    "precisions": list(entry.precisions),
                }
            )
            for entry in entries
        ]
    width = max(len(entry.name) for entry in entries)
    lines = [f"{'NAME':{width}}  DIMENSIONS  TOKENS  POOLING     PRECISIONS        LICENCE"]
    for entry in entries:
        note = f" ({entry.licence.note})" if entry.licence.note else ""
        lines.append(
            f"{entry.name:{width}}  {entry.dimensions:10}  {entry.max_length:6}  "
            f"{entry.pooling:10}  {', '.join(entry.precisions):16}  {entry.licence.id}{note}"
        )
    return lines
