"""The retrieval sets by name."""

from __future__ import annotations

from pathlib import Path

from lasttoken_export.checkpoint import default_cache_folder
from lasttoken_export.errors import InvalidOption
from lasttoken_export.quality.debian_index import debian_set
from lasttoken_export.quality.python_docstrings import python_set
from lasttoken_export.quality.quality_options import SETS
from lasttoken_export.quality.retrieval_set import RetrievalSet, pairs_of_file


def open_set(
    name: str, *, pairs: int | None = None, cache_folder: Path | None = None
) -> RetrievalSet:
    """Return a set, fetching it first where need be.

    Args:
        name: One of `SETS`, or the path of a file of pairs.
        pairs: Only the first so many; None for all.
        cache_folder: Where fetched texts are kept; None for the default.

    Raises:
        InvalidOption: There is no such set or file, or too few pairs are wanted.
        SourceUnavailable: It cannot be fetched.
    """
    if pairs is not None and pairs < 2:
        raise InvalidOption(f"{pairs!r} pairs are too few to rank; choose 2 or more")
    if name == "debian":
        found = debian_set(cache_folder or default_cache_folder())
    elif name == "python":
        found = python_set()
    elif Path(name).is_file():
        found = pairs_of_file(Path(name))
    else:
        raise InvalidOption(
            f"{name!r} is neither a retrieval set ({', '.join(SETS)}) nor a file of pairs"
        )
    return found if pairs is None else found.first(pairs)
