"""Sizes of a model as its files state them: held within what any model has before they are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lasttoken_export.errors import InvalidCheckpoint

MOST_LAYERS = 4096
"""Tables of all layers are made before a tensor is looked at, so their number must be bounded."""
MOST = 2**31 - 1
"""Largest size of anything else: the graph's shapes and ids are int32."""


def check_sizes(config: object, names: Iterable[str]) -> None:
    """Check attributes of a configuration.

    Args:
        config: Has them.
        names: Which ones; a float must be positive and finite, an int within the limits too.

    Raises:
        InvalidCheckpoint: One is not.
    """
    for name in names:
        value = getattr(config, name)
        most = MOST_LAYERS if name == "num_layers" else MOST
        if not 0 < value < float("inf") or (isinstance(value, int) and value > most):
            raise InvalidCheckpoint(f"{name} is {value!r} in the model's configuration")


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture that config.json names; "(none)" where it names none."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else "(none)"


def settings_of(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A setting of config.json that is an object; empty where it is absent or null.

    Raises:
        InvalidCheckpoint: It is something else.
    """
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidCheckpoint(f"config.json sets {name} to {value!r}, which is no object")
    return value
