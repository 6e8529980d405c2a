"""What a run was told, for who continues it and does not say it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lasttoken.corpus.manifest import read_manifest
from lasttoken.corpus.places import place_of
from lasttoken.errors import InvalidInput

_SAME_NAME = (
    "text_column",
    "vector_column",
    "vector_dtype",
    "rows_per_part",
    "compression",
    "on_refused",
)


def resumed_settings(output: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the run in a folder, for all that is not given.

    What is given stays as it is, and is compared with the run's when that goes on.

    Args:
        output: Path or URL of the folder.
        given: Arguments of `CorpusOptions` that somebody has said.

    Returns:
        `given`, and what the run there was told besides; `given` alone where no run is.

    Raises:
        InvalidInput: What the folder says of its run cannot be read.
    """
    there = read_manifest(place_of(output))
    if there is None:
        return dict(given)
    try:
        return {**_settings(there, given), **given}
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"what {output!r} says of its run is not complete: {error!r}; write to another folder"
        ) from error


def _settings(there: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    model = there["model"]
    settings = {"model": model["name"], **{name: there[name] for name in _SAME_NAME}}
    settings["columns"] = None if there["columns"] is None else tuple(there["columns"])
    if not given.keys() & {"prompt_name", "instruction"}:  # one in place of the other is a change
        settings |= {name: there[name] for name in ("prompt_name", "instruction")}
    if "dimensions" not in given and there["dimensions"] != model["dimensions"]:
        # The run was allowed to cut to that size; how, nobody wrote down.
        settings |= {"dimensions": there["dimensions"], "force_dimensions": True}
    return settings
