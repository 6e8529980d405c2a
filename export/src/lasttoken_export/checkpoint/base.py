"""What every kind of checkpoint offers, and what a whole one holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from lasttoken_export.architectures import ModelConfig
from lasttoken_export.errors import MissingTensor, TensorShapeMismatch, UnexpectedTensor

_IGNORED_ENDINGS = (
    "rotary_emb.inv_freq", "embeddings.position_ids", "lm_head.weight", "pooler.dense.weight",
    "pooler.dense.bias",
)  # fmt: skip
_IGNORED_BEGINNINGS = ("cls.", "lm_head.")
"""Buffers of old releases, and heads for other tasks, which an embedder has no use for."""
_PREFIXES = ("model.", "bert.", "roberta.", "nomic_bert.")
"""What a model with a head for another task puts before the names of its body."""


class ServedConfig(Protocol):
    """What serving needs to know of any model's configuration."""

    @property
    def architecture(self) -> str:
        """As the checkpoint names it."""
        ...

    @property
    def hidden_size(self) -> int:
        """Elements of a hidden state, and of the embedding."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers."""
        ...

    @property
    def num_heads(self) -> int | None:
        """Query heads; None where the configuration says them under no known name."""
        ...

    @property
    def rope_theta(self) -> float | None:
        """Base of the rotary frequencies; None where there are none, or they are not known."""
        ...

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        ...

    @property
    def max_positions(self) -> int:
        """Tokens that a text may have."""
        ...

    @property
    def sliding_window(self) -> int | None:
        """Tokens that a token attends to; None for all, or where the graph masks it."""
        ...


class ModelFiles(Protocol):
    """A model's files but its weights.

    Attributes:
        location: Where it came from, for messages and the card.
        revision: Its revision there; None where there is none.
        config: Its shape.
    """

    @property
    def location(self) -> str:
        """Where it came from."""
        ...

    @property
    def revision(self) -> str | None:
        """Its revision there."""
        ...

    @property
    def config(self) -> ServedConfig:
        """Its shape."""
        ...

    def tokenizer_json(self) -> str:
        """Return the fast tokenizer as the text of tokenizer.json.

        Raises:
            UnsupportedTokenizer: There is none, and none can be built.
        """
        ...


class Checkpoint(ModelFiles, Protocol):
    """A model's files, read one tensor at a time.

    Names are those of a headless Hugging Face model: ``embed_tokens.weight``,
    ``layers.0.self_attn.q_proj.weight``, ``norm.weight``.
    """

    @property
    def config(self) -> ModelConfig:
        """Its shape."""
        ...

    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, ``[out, in]`` for a linear layer."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """Return one tensor: float32, float16 or bfloat16 (ml_dtypes).

        Raises:
            CorruptFile: The file does not hold it whole.
        """
        ...


def name_in(location: str) -> str:
    """Return a model's name where its files tell none: that of its folder, file or hub id."""
    last = Path(location).resolve().name.lower().removesuffix(".gguf")
    return re.sub(r"[^a-z0-9.]+", "-", last).strip("-.") or "model"


def canonical_name(name: str) -> str | None:
    """Return the headless name of a Hugging Face tensor; None for one that is not needed."""
    if name.endswith(_IGNORED_ENDINGS) or name.startswith(_IGNORED_BEGINNINGS):
        return None
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def validate_tensors(checkpoint: Checkpoint) -> None:
    """Prove that a checkpoint holds exactly the tensors of its configuration.

    Raises:
        MissingTensor: One is not there.
        UnexpectedTensor: One is there that the graph would ignore.
        TensorShapeMismatch: One has another shape.
    """
    expected = checkpoint.config.tensor_shapes()
    names = checkpoint.names()
    if missing := sorted(expected.keys() - names):
        raise MissingTensor(
            f"{checkpoint.location}: {len(missing)} tensors are missing, the first is "
            f"{missing[0]!r}; download the checkpoint again, and all its files"
        )
    if extra := sorted(names - expected.keys()):
        raise UnexpectedTensor(
            f"{checkpoint.location}: {len(extra)} tensors have no place in the graph, the first is "
            f"{extra[0]!r}; the model is not quite of the architecture that it names "
            f"({checkpoint.config.architecture})"
        )
    for name, shape in expected.items():
        if (found := checkpoint.shape(name)) != shape:
            raise TensorShapeMismatch(
                f"{checkpoint.location}: {name!r} has shape {found}, the configuration implies "
                f"{shape}"
            )
