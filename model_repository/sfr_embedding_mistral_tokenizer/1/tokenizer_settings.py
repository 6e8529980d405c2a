"""Settings of the tokenizer, read from the ``parameters`` of its config.pbtxt."""

from __future__ import annotations

from collections.abc import Mapping

from text_request import TextLimits
from tokenizer_errors import InvalidContract

_KNOWN = ("max_text_bytes", "max_texts_per_request", "on_overflow")


def parse_settings(parameters: Mapping[str, Mapping[str, str]]) -> TextLimits:
    """Read Triton's JSON form ``{name: {"string_value": text}}``.

    Raises:
        InvalidContract: A parameter is unknown, missing, malformed or out of range.
    """
    if sorted(parameters) != sorted(_KNOWN):
        raise InvalidContract(
            f"config.pbtxt has the parameters {sorted(parameters)!r}; it must have {_KNOWN!r}"
        )
    counts = {}
    for name in ("max_text_bytes", "max_texts_per_request"):
        text = parameters[name]["string_value"]
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise InvalidContract(f"{name} is {text!r}; set it to 1 or more")
        counts[name] = int(text)
    on_overflow = parameters["on_overflow"]["string_value"]
    if on_overflow not in ("truncate", "refuse"):
        raise InvalidContract(f"on_overflow is {on_overflow!r}; set it to truncate or refuse")
    return TextLimits(**counts, refuse_overflow=on_overflow == "refuse")
