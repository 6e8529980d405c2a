"""Configuration of a decoder (Mistral, Llama, Qwen2, Qwen3), from config.json or GGUF metadata.

What the graph does not implement is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasttoken_export.config_sizes import architecture_of, check_sizes, settings_of
from lasttoken_export.errors import (
    InvalidCheckpoint,
    UnsupportedArchitecture,
    UnsupportedRopeScaling,
)

_FAMILIES = ("Mistral", "Llama", "Qwen2", "Qwen3")
ARCHITECTURES = tuple(
    f"{family}{kind}" for family in _FAMILIES for kind in ("Model", "ForCausalLM")
)
GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Names of the same families in GGUF files; llama.cpp writes Mistral models as ``llama``."""


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
        qkv_bias: Whether queries, keys and values have biases (Qwen2).
        qk_norm: Whether each head of queries and keys is normalised before rotation (Qwen3).

    Raises:
        InvalidCheckpoint: A size is out of range, or the heads do not divide.
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
    qkv_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_sizes(self, (
            "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
            "intermediate_size", "vocab_size", "max_positions", "rope_theta", "rms_norm_eps",
        ))  # fmt: skip
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise InvalidCheckpoint(
                f"{self.num_heads} heads of {self.head_dim} elements cannot share "
                f"{self.num_kv_heads} key and value heads"
            )

    @property
    def queries_size(self) -> int:
        """Elements of all queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def keys_size(self) -> int:
        """Elements of all keys of a token, and of all values."""
        return self.num_kv_heads * self.head_dim

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one layer's tensors by their names behind ``layers.N.``."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.queries_size, self.keys_size
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        if self.qkv_bias:
            for part, size in (("q", queries), ("k", keys), ("v", keys)):
                shapes[f"self_attn.{part}_proj.bias"] = (size,)
        if self.qk_norm:
            for part in "qk":
                shapes[f"self_attn.{part}_norm.weight"] = (self.head_dim,)
        return shapes

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of a whole checkpoint by their headless Hugging Face names."""
        layer = self.layer_shapes()
        return {
            "embed_tokens.weight": (self.vocab_size, self.hidden_size),
            **{
                f"layers.{index}.{name}": shape
                for index in range(self.num_layers)
                for name, shape in layer.items()
            },
            "norm.weight": (self.hidden_size,),
        }

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> DecoderConfig:
        """Read config.json.

        Raises:
            UnsupportedArchitecture: The architecture or a setting is not implemented.
            UnsupportedRopeScaling: The rotary positions are scaled.
            InvalidCheckpoint: A setting is missing or malformed.
        """
        architecture = architecture_of(config)
        if architecture not in ARCHITECTURES:
            raise UnsupportedArchitecture(
                f"config.json names the architecture {architecture!r}; known are "
                f"{', '.join(ARCHITECTURES)}"
            )
        qwen = architecture.startswith("Qwen")
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
        rope = settings_of(config, "rope_scaling") | settings_of(config, "rope_parameters")
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
            # Qwen's files carry a window that is off unless they say otherwise.
            if not config.get("use_sliding_window", not qwen):
                window = None
            head_dim = config.get("head_dim")
            if head_dim is None and architecture.startswith("Qwen3"):
                head_dim = 128  # the default of its configuration class
            return cls(
                architecture=architecture,
                hidden_size=int(config["hidden_size"]),
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(head_dim or int(config["hidden_size"]) // heads),
                intermediate_size=int(config["intermediate_size"]),
                vocab_size=int(config["vocab_size"]),
                rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
                rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                max_positions=int(config["max_position_embeddings"]),
                sliding_window=None if window is None else int(window),
                qkv_bias=architecture.startswith("Qwen2"),
                qk_norm=architecture.startswith("Qwen3"),
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
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
                rms_norm_eps=shortest_float32(metadata[f"{name}.attention.layer_norm_rms_epsilon"]),
                max_positions=int(metadata[f"{name}.context_length"]),
                sliding_window=int(window) if window else None,
                qkv_bias=name == "qwen2",
                qk_norm=name == "qwen3",
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidCheckpoint(f"the GGUF metadata is malformed: {error!r}") from None


def shortest_float32(value: Any) -> float:
    """Undo the widening of a float32: 9.99999974e-06 was written as 1e-5."""
    return float(str(np.float32(value)))
