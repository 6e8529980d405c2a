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


_BY_MODEL_TYPE = {
    "bert": "BertModel", "llama": "LlamaModel", "mistral": "MistralModel",
    "nomic_bert": "NomicBertModel", "qwen2": "Qwen2Model", "qwen3": "Qwen3Model",
    "xlm-roberta": "XLMRobertaModel",
}  # fmt: skip
"""What transformers' AutoModel loads, which goes by the model type alone.

Source: https://github.com/huggingface/transformers, ``MODEL_MAPPING_NAMES``
"""


def architecture_of(config: Mapping[str, Any]) -> str:
    """The architecture that config.json names, or its model type's; "(none)" without either."""
    if names_architecture(config):
        return str(config["architectures"][0])
    return _BY_MODEL_TYPE.get(str(config.get("model_type")), "(none)")


def names_architecture(config: Mapping[str, Any]) -> bool:
    """Whether config.json names an architecture of its own."""
    names = config.get("architectures")
    return isinstance(names, list) and bool(names)


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
