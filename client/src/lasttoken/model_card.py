"""The card that a server sends along with a model, taken in only where it is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any


def parse_card(text: str) -> dict[str, Any] | None:
    """Read a card.

    Whatever uses a card relies on these types, and a server may be of any make: a card with a known
    field of another type counts as none.

    Args:
        text: JSON, as it stands in the configuration of the ensemble.

    Returns:
        The card; None where the text is not JSON, or not a card.
    """
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(card, dict) or not card:
        return None
    return card if all(fits(card[name]) for name, fits in _FITS.items() if name in card) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_licence(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_sizes(value: object) -> bool:
    return value is None or (
        isinstance(value, dict)
        and (
            (value.keys() == {"minimum"} and _is_count(value["minimum"]))
            or (value.keys() == {"dimensions"} and _are_ids(value["dimensions"]))
        )
    )


_FITS: Mapping[str, Callable[[object], bool]] = {
    "model": _is_text,
    "source": _is_text,
    "revision": _is_text_or_none,
    "licence": _is_licence,
    "precision": _is_text,
    "runtime": _is_text,
    "pooling": _is_text,
    "dimensions": _is_count,
    "matryoshka": _are_sizes,
    "max_length": _is_count,
    "opening_ids": _are_ids,
    "closing_ids": _are_ids,
    "vocab_size": _is_count,
    "prompts": _are_texts,
    "default_prompt_name": _is_text_or_none,
    "sha256": _is_object,
    "checks": _is_object,
    "quality": _is_object,
}
"""By the name of the field, whether a value is of its type."""
