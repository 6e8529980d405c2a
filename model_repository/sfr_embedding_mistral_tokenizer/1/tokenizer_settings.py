"""Settings of the tokenizer, read from the ``parameters`` of its config.pbtxt."""

from __future__ import annotations

from collections.abc import Mapping

from text_request import TextLimits
from tokenizer_errors import InvalidContract

_KNOWN = ("max_text_bytes", "on_overflow")


def parse_settings(parameters: Mapping[str, Mapping[str, str]]) -> TextLimits:
    """Read Triton's JSON form ``{name: {"string_value": text}}``.

    Raises:
        InvalidContract: A parameter is unknown, missing, malformed or out of range.
    """
    if sorted(parameters) != sorted(_KNOWN):
        raise InvalidContract(
            f"config.pbtxt has the parameters {sorted(parameters)!r}; it must have {_KNOWN!r}"
        )
    max_text_bytes = parameters["max_text_bytes"]["string_value"]
    if not max_text_bytes.isascii() or not max_text_bytes.isdigit() or int(max_text_bytes) < 1:
        raise InvalidContract(f"max_text_bytes is {max_text_bytes!r}; set it to 1 or more")
    on_overflow = parameters["on_overflow"]["string_value"]
    if on_overflow not in ("truncate", "refuse"):
        raise InvalidContract(f"on_overflow is {on_overflow!r}; set it to truncate or refuse")
    return TextLimits(max_text_bytes=int(max_text_bytes), refuse_overflow=on_overflow == "refuse")
