"""The known architectures: which configuration and which graph belong to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lasttoken_export import decoder_config, encoder_config
from lasttoken_export.config_sizes import architecture_of
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.encoder_config import EncoderConfig
from lasttoken_export.errors import UnsupportedArchitecture

ModelConfig = DecoderConfig | EncoderConfig

ARCHITECTURES = decoder_config.ARCHITECTURES + encoder_config.ARCHITECTURES
"""Those with a packed graph."""


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """Read config.json of any known architecture.

    Raises:
        UnsupportedModel: The architecture or a setting is not implemented.
        InvalidCheckpoint: A setting is missing or malformed.
    """
    architecture = architecture_of(config)
    if architecture in encoder_config.ARCHITECTURES:
        return EncoderConfig.from_hugging_face(config)
    if architecture in decoder_config.ARCHITECTURES:
        return DecoderConfig.from_hugging_face(config)
    raise UnsupportedArchitecture(
        f"config.json names the architecture {architecture!r}; a packed graph can be built of "
        f"{', '.join(ARCHITECTURES)}; lasttoken-export --graph padded exports any other"
    )


def has_packed_graph(config: Mapping[str, Any]) -> bool:
    """Whether config.json names one of `ARCHITECTURES`, whatever its settings."""
    return architecture_of(config) in ARCHITECTURES


def read_gguf_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> ModelConfig:
    """Read the metadata of a GGUF file of any known architecture.

    Args:
        metadata: Values by key.
        shapes: Shapes of its tensors by their headless Hugging Face names.

    Raises:
        UnsupportedModel: The architecture or a setting is not implemented.
        InvalidCheckpoint: A key is missing or malformed.
    """

    def rows(name: str) -> int:
        return shapes[name][0] if name in shapes else 0

    name = metadata.get("general.architecture")
    if name in encoder_config.GGUF_ARCHITECTURES:
        return EncoderConfig.from_gguf(
            metadata,
            vocab_size=rows("embeddings.word_embeddings.weight"),
            type_vocab_size=rows("embeddings.token_type_embeddings.weight"),
        )
    if name in decoder_config.GGUF_ARCHITECTURES:
        return DecoderConfig.from_gguf(metadata, vocab_size=rows("embed_tokens.weight"))
    known = decoder_config.GGUF_ARCHITECTURES + encoder_config.GGUF_ARCHITECTURES
    raise UnsupportedArchitecture(
        f"the GGUF file has the architecture {name!r}; known are {', '.join(known)}"
    )


def attention_cell_cost(config: ModelConfig) -> float:
    """Arithmetic of one attention cell over that of one token.

    A token costs 2 operations an element of the layers' matrices; a cell 4 an element of the heads
    (product of query and key, and of probability and value).
    """
    matrices = [shape for shape in config.layer_shapes().values() if len(shape) == 2]
    return 4 * config.queries_size / (2 * sum(rows * columns for rows, columns in matrices))
