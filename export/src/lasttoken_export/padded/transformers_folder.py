"""A Hugging Face folder of any architecture: what is read of it before optimum exports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken_export.config_sizes import architecture_of, check_sizes, settings_of
from lasttoken_export.errors import InvalidCheckpoint, ModelNotFound
from lasttoken_export.json_file import read_object
from lasttoken_export.tokenizer.folder_tokenizer import tokenizer_json_of_folder

_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")
_ROTARY_BASES = ("rope_theta", "rotary_emb_base")
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads")
_POSITIONS_BEHIND_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip
"""Model types whose positions count from the padding id, so that their table has unused rows.

Source: https://github.com/huggingface/transformers, ``create_position_ids_from_input_ids``
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyConfig:
    """What serving needs to know of an architecture that has no packed graph.

    Attributes:
        architecture: As the checkpoint names it.
        hidden_size: Elements of a hidden state, and of the embedding.
        num_layers: Layers.
        vocab_size: Token ids are below this.
        max_positions: Tokens that a text may have.
        stated_attention: ``causal`` or ``bidirectional`` where config.json says so, else None.
        num_heads: Query heads; None where config.json says them under no known name.
        rope_theta: Base of the rotary frequencies, likewise.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    max_positions: int
    stated_attention: str | None
    num_heads: int | None = None
    rope_theta: float | None = None

    def __post_init__(self) -> None:
        check_sizes(self, ("hidden_size", "num_layers", "vocab_size", "max_positions"))

    @property
    def sliding_window(self) -> None:
        """Any window is in the graph, as transformers computes it."""
        return

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> AnyConfig:
        """Read config.json.

        Raises:
            InvalidCheckpoint: A setting is missing or malformed.
        """

        def first(*names: str) -> int:
            return int(next(config[name] for name in names if config.get(name) is not None))

        causal = config.get("is_causal")
        rope = settings_of(config, "rope_parameters")
        bases = (rope.get("rope_theta"), *(config.get(name) for name in _ROTARY_BASES))
        try:
            behind = config.get("model_type") in _POSITIONS_BEHIND_PADDING
            return cls(
                architecture=architecture_of(config),
                hidden_size=first("hidden_size", "d_model", "dim", "n_embd"),
                num_layers=first("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
                vocab_size=first("vocab_size"),
                max_positions=first(*_POSITIONS)
                - (int(config.get("pad_token_id", 1)) + 1 if behind else 0),
                stated_attention=None
                if causal is None
                else ("causal" if causal else "bidirectional"),
                num_heads=next((int(config[n]) for n in _HEADS if config.get(n) is not None), None),
                rope_theta=next((float(base) for base in bases if base is not None), None),
            )
        except (StopIteration, TypeError, ValueError, ArithmeticError) as error:
            raise InvalidCheckpoint(
                "config.json is malformed, or says its hidden size, layers, vocabulary or "
                f"positions under no known name: {error!r}"
            ) from None


class TransformersFolder:
    """Implements `checkpoint.base.ModelFiles`.

    Args:
        folder: The folder.
        location: What to call it; None for its path.
        revision: Revision that it was downloaded at.

    Raises:
        ModelNotFound: It has no config.json.
        InvalidCheckpoint: config.json is malformed.
    """

    def __init__(
        self, folder: Path, *, location: str | None = None, revision: str | None = None
    ) -> None:
        self.location = location or str(folder)
        self.revision = revision
        self.folder = folder
        self.config = AnyConfig.from_hugging_face(read_config_json(folder, self.location))

    def tokenizer_json(self) -> str:
        """See `ModelFiles.tokenizer_json`."""
        return tokenizer_json_of_folder(self.folder, self.location)


def read_config_json(folder: Path, location: str) -> dict[str, Any]:
    """Read a folder's config.json.

    Raises:
        ModelNotFound: There is none.
        CorruptFile: It is no JSON object.
    """
    try:
        return read_object(folder / "config.json")
    except FileNotFoundError:
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        way_out = f"; name one of its GGUF files: {', '.join(ggufs)}" if ggufs else ""
        raise ModelNotFound(
            f"{location} has no config.json; it is not a Hugging Face model folder{way_out}"
        ) from None
