"""The shapes that are measured: SFR-Embedding-Mistral's own, and smaller ones of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_perf.plan.model_account import ModelAccount
from lasttoken_perf.random_checkpoint import SFR_CONFIG

SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {
            **SFR_CONFIG,
            "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 160, "vocab_size": 512,
        },
        # SmolLM2-135M's.
        "small": {
            **SFR_CONFIG,
            "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
        },
        "sfr": SFR_CONFIG,
    }
)  # fmt: skip
"""Hugging Face's configurations by name, in the order of their size."""

CATALOGUE_NAMES: Mapping[str, str] = MappingProxyType({"sfr": "sfr-embedding-mistral"})
"""The catalogue's model of a shape, where its figures are those of a model that people serve."""


def shape_config(shape: str) -> DecoderConfig:
    """Return the configuration of one of `SHAPES`."""
    return DecoderConfig.from_hugging_face(SHAPES[shape])


def shape_account(shape: str) -> ModelAccount:
    """Return parameters and arithmetic of one of `SHAPES`, as the planner counts them."""
    return ModelAccount(
        name=CATALOGUE_NAMES.get(shape, shape), config=shape_config(shape), causal=True
    )


def shapes_up_to(shape: str) -> tuple[str, ...]:
    """Return a shape and all smaller ones, smallest first."""
    names = tuple(SHAPES)
    return names[: names.index(shape) + 1]
