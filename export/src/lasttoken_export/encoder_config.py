"""Configuration of a bidirectional encoder (BERT, XLM-RoBERTa, NomicBERT), from config.json.

All three normalise behind each residual. BERT and XLM-RoBERTa learn their positions; NomicBERT
rotates and has a gated MLP without biases. Sources: https://arxiv.org/abs/1810.04805,
https://arxiv.org/abs/1911.02116, https://arxiv.org/abs/2402.01613 and the published code of
nomic-ai/nomic-bert-2048.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lasttoken_export.config_sizes import architecture_of, check_sizes, settings_of
from lasttoken_export.decoder_config import shortest_float32
from lasttoken_export.errors import InvalidCheckpoint, UnsupportedArchitecture

BERT_ARCHITECTURES = ("BertModel", "BertForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM")
NOMIC_ARCHITECTURES = ("NomicBertModel",)
ARCHITECTURES = BERT_ARCHITECTURES + NOMIC_ARCHITECTURES
_NOMIC_TRAINED_POSITIONS = 2048
"""What NomicBERT's own configuration means where it says nothing."""
GGUF_ARCHITECTURES = ("bert", "nomic-bert")
"""Names of the same in GGUF files; llama.cpp writes XLM-RoBERTa as ``bert``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
        architecture: As the checkpoint names it.
        hidden_size: Elements of a hidden state, and of the embedding.
        num_layers: Layers.
        num_heads: Heads; divides ``hidden_size``.
        intermediate_size: Elements inside the MLP.
        vocab_size: Rows of the token embedding.
        type_vocab_size: Rows of the token type embedding, of which the first is used.
        layer_norm_eps: Added to the variance before its root.
        max_positions: Tokens that a text may have.
        position_offset: Row of the position embedding of a text's first token.
        rope_theta: Base of the rotary frequencies; None where positions are learned.

    Raises:
        InvalidCheckpoint: A size is out of range, or the heads do not divide.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    type_vocab_size: int
    layer_norm_eps: float
    max_positions: int
    position_offset: int = 0
    rope_theta: float | None = None

    def __post_init__(self) -> None:
        check_sizes(self, (
            "hidden_size", "num_layers", "num_heads", "intermediate_size", "vocab_size",
            "type_vocab_size", "layer_norm_eps", "max_positions",
        ))  # fmt: skip
        if self.hidden_size % self.num_heads:
            raise InvalidCheckpoint(
                f"{self.num_heads} heads do not divide {self.hidden_size} elements"
            )

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.hidden_size // self.num_heads

    @property
    def queries_size(self) -> int:
        """Elements of all queries of a token."""
        return self.hidden_size

    @property
    def sliding_window(self) -> None:
        """There is none: every token attends to all."""
        return

    @property
    def is_nomic(self) -> bool:
        """Whether it is a NomicBERT."""
        return self.rope_theta is not None

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one layer's tensors by their names behind ``encoder.layer(s).N.``."""
        hidden, inner = self.hidden_size, self.intermediate_size
        if self.is_nomic:
            weights = {
                "attn.Wqkv.weight": (3 * hidden, hidden),
                "attn.out_proj.weight": (hidden, hidden),
                "mlp.fc11.weight": (inner, hidden),
                "mlp.fc12.weight": (inner, hidden),
                "mlp.fc2.weight": (hidden, inner),
            }
            norms = ("norm1", "norm2")
            return weights | {f"{n}.{k}": (hidden,) for n in norms for k in ("weight", "bias")}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in (
            ("attention.self.query", (hidden, hidden)),
            ("attention.self.key", (hidden, hidden)),
            ("attention.self.value", (hidden, hidden)),
            ("attention.output.dense", (hidden, hidden)),
            ("attention.output.LayerNorm", (hidden,)),
            ("intermediate.dense", (inner, hidden)),
            ("output.dense", (hidden, inner)),
            ("output.LayerNorm", (hidden,)),
        ):
            shapes[f"{name}.weight"] = shape
            shapes[f"{name}.bias"] = shape[:1]
        return shapes

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of a whole checkpoint by their headless published names."""
        hidden = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, hidden),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, hidden),
        }
        norm = "emb_ln" if self.is_nomic else "embeddings.LayerNorm"
        shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
        if not self.is_nomic:
            positions = self.max_positions + self.position_offset
            shapes["embeddings.position_embeddings.weight"] = (positions, hidden)
        prefix = "encoder.layers" if self.is_nomic else "encoder.layer"
        layer = self.layer_shapes()
        for index in range(self.num_layers):
            shapes |= {f"{prefix}.{index}.{name}": shape for name, shape in layer.items()}
        return shapes

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """Read config.json.

        Raises:
            UnsupportedArchitecture: The architecture or a setting is not implemented.
            InvalidCheckpoint: A setting is missing or malformed.
        """
        architecture = architecture_of(config)
        if architecture not in ARCHITECTURES:
            raise UnsupportedArchitecture(
                f"config.json names the architecture {architecture!r}; known are "
                f"{', '.join(ARCHITECTURES)}"
            )
        try:
            if architecture in NOMIC_ARCHITECTURES:
                return cls._from_nomic(config)
            _require(config, {"hidden_act": ("gelu",), "is_decoder": (False,),
                              "position_embedding_type": ("absolute",)})  # fmt: skip
            offset = 0
            if architecture.startswith("XLMRoberta"):
                offset = int(config.get("pad_token_id", 1)) + 1
            return cls(
                architecture=architecture,
                hidden_size=int(config["hidden_size"]),
                num_layers=int(config["num_hidden_layers"]),
                num_heads=int(config["num_attention_heads"]),
                intermediate_size=int(config["intermediate_size"]),
                vocab_size=int(config["vocab_size"]),
                type_vocab_size=int(config.get("type_vocab_size", 2)),
                layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
                max_positions=int(config["max_position_embeddings"]) - offset,
                position_offset=offset,
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidCheckpoint(f"config.json is incomplete or malformed: {error!r}") from None

    @classmethod
    def from_gguf(
        cls, metadata: Mapping[str, Any], *, vocab_size: int, type_vocab_size: int
    ) -> EncoderConfig:
        """Read the metadata of a GGUF file.

        llama.cpp cuts the rows of XLM-RoBERTa's positions that no token uses, so there is no
        offset in the file.

        Args:
            metadata: Values by key.
            vocab_size: Rows of the token embedding.
            type_vocab_size: Rows of the token type embedding.

        Raises:
            UnsupportedArchitecture: The architecture or a setting is not implemented.
            InvalidCheckpoint: A key is missing or malformed.

        Source: https://github.com/ggml-org/llama.cpp/blob/master/conversion/bert.py
        """
        name = metadata.get("general.architecture")
        if name not in GGUF_ARCHITECTURES:
            raise UnsupportedArchitecture(
                f"the GGUF file has the architecture {name!r}; known are "
                f"{', '.join(GGUF_ARCHITECTURES)}"
            )
        if metadata.get(f"{name}.attention.causal") is not False:
            raise UnsupportedArchitecture(
                f"the GGUF file does not say that its {name!r} attends in both directions"
            )
        scaling = metadata.get(f"{name}.rope.scaling.type", "none")
        if scaling != "none":
            raise UnsupportedArchitecture(
                f"the GGUF file scales rotary positions ({scaling!r}), which is not implemented"
            )
        nomic = name == "nomic-bert"
        try:
            return cls(
                architecture=f"gguf:{name}",
                hidden_size=int(metadata[f"{name}.embedding_length"]),
                num_layers=int(metadata[f"{name}.block_count"]),
                num_heads=int(metadata[f"{name}.attention.head_count"]),
                intermediate_size=int(metadata[f"{name}.feed_forward_length"]),
                vocab_size=vocab_size,
                type_vocab_size=type_vocab_size,
                layer_norm_eps=shortest_float32(metadata[f"{name}.attention.layer_norm_epsilon"]),
                max_positions=int(metadata[f"{name}.context_length"]),
                rope_theta=float(metadata[f"{name}.rope.freq_base"]) if nomic else None,
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidCheckpoint(f"the GGUF metadata is malformed: {error!r}") from None

    @classmethod
    def _from_nomic(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """Read either spelling: nomic's own (``n_embd``) or transformers' (``hidden_size``)."""
        _require(config, {
            "activation_function": ("swiglu",), "hidden_act": ("silu",), "prenorm": (False,),
            "rotary_emb_fraction": (1.0,), "rotary_emb_interleaved": (False,),
            "rotary_emb_scale_base": (None,), "qkv_proj_bias": (False,), "mlp_fc1_bias": (False,),
            "mlp_fc2_bias": (False,), "parallel_block": (False,), "use_rms_norm": (False, None),
        })  # fmt: skip

        def either(ours: str, theirs: str) -> Any:
            return config[ours] if ours in config else config[theirs]

        rope = settings_of(config, "rope_parameters")
        if rope.get("rope_type", "default") != "default":
            raise UnsupportedArchitecture(
                f"config.json scales rotary positions: {rope!r}; only the default type is "
                "implemented"
            )
        positions = int(either("n_positions", "max_position_embeddings"))
        # Behind these the authors' code changes the rotary base with the length of the batch, or
        # (without a scaling factor) goes on untrained: neither is served.
        trained = config.get("max_trained_positions")
        if trained is None:
            trained = _NOMIC_TRAINED_POSITIONS if "n_positions" in config else positions
        hidden = int(either("n_embd", "hidden_size"))
        theta = config.get("rotary_emb_base", rope.get("rope_theta", 1000.0))
        return cls(
            architecture="NomicBertModel",
            hidden_size=hidden,
            num_layers=int(either("n_layer", "num_hidden_layers")),
            num_heads=int(either("n_head", "num_attention_heads")),
            intermediate_size=int(either("n_inner", "intermediate_size")),
            vocab_size=int(config["vocab_size"]),
            type_vocab_size=int(config.get("type_vocab_size", 2)),
            layer_norm_eps=float(either("layer_norm_epsilon", "layer_norm_eps")),
            max_positions=min(positions, int(trained)),
            rope_theta=float(theta),
        )


def _require(config: Mapping[str, Any], settings: Mapping[str, tuple[object, ...]]) -> None:
    for name, known in settings.items():
        if name in config and config[name] not in known:
            raise UnsupportedArchitecture(
                f"config.json sets {name} to {config[name]!r}; only {known[0]!r} is implemented"
            )
