"""Configuration of a Mistral/Llama decoder, from Hugging Face's config.json or GGUF metadata.

What the graph does not implement is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken_export.errors import (
    InvalidCheckpoint,
    MaxLengthBeyondModel,
    UnsupportedArchitecture,
    UnsupportedRopeScaling,
)

ARCHITECTURES = ("MistralModel", "MistralForCausalLM", "LlamaModel", "LlamaForCausalLM")
GGUF_ARCHITECTURES = ("llama",)
"""Names of the same family in GGUF files; llama.cpp writes Mistral models as ``llama``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder.

    Attributes:
        architecture: As the checkpoint names it.
        hidden_size: Elements of a hidden state, and of the embedding.
        num_layers: Layers.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides ``num_heads``.
        head_dim: Elements a head, even.
        intermediate_size: Elements inside the MLP.
        vocab_size: Rows of the token embedding.
        rope_theta: Base of the rotary frequencies.
        rms_norm_eps: Added to the mean square before its root.
        max_positions: Positions that the model was trained for.
        sliding_window: Tokens that a token attends to; None for all.

    Raises:
        InvalidCheckpoint: A size is not positive, or the heads do not divide.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    max_positions: int
    sliding_window: int | None

    def __post_init__(self) -> None:
        for name in (
            "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
            "intermediate_size", "vocab_size", "max_positions", "rope_theta", "rms_norm_eps",
        ):  # fmt: skip
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InvalidCheckpoint(f"{name} is {value!r} in the model's configuration")
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise InvalidCheckpoint(
                f"{self.num_heads} heads of {self.head_dim} elements cannot share "
                f"{self.num_kv_heads} key and value heads"
            )

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> DecoderConfig:
        """Read config.json.

        Raises:
            UnsupportedArchitecture: The architecture or a setting is not implemented.
            UnsupportedRopeScaling: The rotary positions are scaled.
            InvalidCheckpoint: A setting is missing or malformed.
        """
        architectures = config.get("architectures") or ["(none)"]
        if architectures[0] not in ARCHITECTURES:
            raise UnsupportedArchitecture(
                f"config.json names the architecture {architectures[0]!r}; known are "
                f"{', '.join(ARCHITECTURES)}"
            )
        for name, expected in (
            ("hidden_act", "silu"),
            ("attention_bias", False),
            ("mlp_bias", False),
            ("partial_rotary_factor", 1.0),
        ):
            value = config.get(name)
            if value is not None and value != expected:
                raise UnsupportedArchitecture(
                    f"config.json sets {name} to {value!r}; only {expected!r} is implemented"
                )
        # transformers 5 writes rope_parameters, earlier ones rope_theta and rope_scaling.
        rope = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedRopeScaling(
                f"config.json scales rotary positions: {rope!r}; only the default type is "
                "implemented. Below the original context length some models work without: remove "
                "the scaling from config.json if the model's authors say so"
            )
        try:
            heads = int(config["num_attention_heads"])
            window = config.get("sliding_window")
            if config.get("use_sliding_window") is False:
                window = None
            return cls(
                architecture=architectures[0],
                hidden_size=int(config["hidden_size"]),
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
                intermediate_size=int(config["intermediate_size"]),
                vocab_size=int(config["vocab_size"]),
                rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
                rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                max_positions=int(config["max_position_embeddings"]),
                sliding_window=None if window is None else int(window),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise InvalidCheckpoint(f"config.json is incomplete or malformed: {error!r}") from None

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], *, vocab_size: int) -> DecoderConfig:
        """Read the metadata of a GGUF file.

        Args:
            metadata: Values by key.
            vocab_size: Rows of the token embedding.

        Raises:
            UnsupportedArchitecture: The architecture is not implemented.
            UnsupportedRopeScaling: The rotary positions are scaled.
            InvalidCheckpoint: A key is missing or malformed.

        Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
        """
        name = metadata.get("general.architecture")
        if name not in GGUF_ARCHITECTURES:
            raise UnsupportedArchitecture(
                f"the GGUF file has the architecture {name!r}; known are "
                f"{', '.join(GGUF_ARCHITECTURES)}"
            )
        scaling = metadata.get(f"{name}.rope.scaling.type", "none")
        factor = metadata.get(f"{name}.rope.scaling.factor", 1.0)
        if scaling != "none" and factor != 1.0:
            raise UnsupportedRopeScaling(
                f"the GGUF file scales rotary positions ({scaling!r}, factor {factor!r}), which is "
                "not implemented"
            )
        try:
            heads = int(metadata[f"{name}.attention.head_count"])
            hidden = int(metadata[f"{name}.embedding_length"])
            head_dim = int(metadata.get(f"{name}.attention.key_length", hidden // heads))
            if int(metadata.get(f"{name}.rope.dimension_count", head_dim)) != head_dim:
                raise UnsupportedArchitecture("the GGUF file rotates only part of each head")
            window = metadata.get(f"{name}.attention.sliding_window")
            return cls(
                architecture=f"gguf:{name}",
                hidden_size=hidden,
                num_layers=int(metadata[f"{name}.block_count"]),
                num_heads=heads,
                num_kv_heads=int(metadata.get(f"{name}.attention.head_count_kv", heads)),
                head_dim=head_dim,
                intermediate_size=int(metadata[f"{name}.feed_forward_length"]),
                vocab_size=vocab_size,
                rope_theta=float(metadata.get(f"{name}.rope.freq_base", 10_000.0)),
                rms_norm_eps=_shortest_float32(
                    metadata[f"{name}.attention.layer_norm_rms_epsilon"]
                ),
                max_positions=int(metadata[f"{name}.context_length"]),
                sliding_window=int(window) if window else None,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise InvalidCheckpoint(f"the GGUF metadata is malformed: {error!r}") from None


def check_max_length(config: DecoderConfig, max_length: int) -> None:
    """Refuse a maximum length at which the graph would not be the model.

    Raises:
        MaxLengthBeyondModel: It is not positive, beyond the positions, or beyond the sliding
            window, which the graph does not mask.
    """
    if max_length < 1:
        raise MaxLengthBeyondModel(f"maximum length {max_length!r} is not positive")
    if config.sliding_window is not None and max_length > config.sliding_window:
        raise MaxLengthBeyondModel(
            f"maximum length {max_length} is beyond the sliding window of {config.sliding_window} "
            f"tokens, which the graph does not mask; choose --max-length {config.sliding_window} "
            "or less"
        )
    if max_length > config.max_positions:
        raise MaxLengthBeyondModel(
            f"maximum length {max_length} is beyond the {config.max_positions} positions that the "
            f"model was trained for; choose --max-length {config.max_positions} or less"
        )


def _shortest_float32(value: Any) -> float:
    """Undo the widening of a float32: 9.99999974e-06 was written as 1e-5."""
    return float(str(np.float32(value)))
