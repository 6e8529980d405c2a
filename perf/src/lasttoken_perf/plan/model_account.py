"""A model's parameters and arithmetic, counted from its configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from lasttoken_export.architectures import ModelConfig, read_config
from lasttoken_export.catalogue import entry
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import CorruptFile
from lasttoken_export.json_file import read_object
from lasttoken_export.precisions import FLOATS
from lasttoken_perf.errors import InvalidPlan, UnknownModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAccount:
    """What the planner needs to know of a model.

    Attributes:
        name: Catalogue name or folder.
        config: Its shape.
        causal: Whether a token attends to earlier ones only.
    """

    name: str
    config: ModelConfig
    causal: bool

    @property
    def matrix_parameters(self) -> int:
        """Elements of the layers' matrices: what a token is multiplied with, and quantised."""
        shapes = self.config.layer_shapes().values()
        return self.config.num_layers * sum(math.prod(s) for s in shapes if len(s) == 2)

    @property
    def output_channels(self) -> int:
        """Rows of the layers' matrices, each of which has a scale when quantised."""
        shapes = self.config.layer_shapes().values()
        return self.config.num_layers * sum(s[0] for s in shapes if len(s) == 2)

    @property
    def parameters(self) -> int:
        """All elements of the checkpoint."""
        return sum(math.prod(shape) for shape in self.config.tensor_shapes().values())

    @property
    def keys_size(self) -> int:
        """Elements of a token's keys, and of its values."""
        config = self.config
        return config.keys_size if isinstance(config, DecoderConfig) else config.hidden_size

    @property
    def safe_floats(self) -> tuple[str, ...]:
        """Float types in which its activations stay in range: the catalogue's, or all."""
        return entry(self.name).precisions if self.name in known_models() else FLOATS

    @property
    def max_length(self) -> int:
        """Most tokens of a text: the catalogue's, or of a folder what its positions allow."""
        if self.name in known_models():
            return entry(self.name).max_length
        positions = self.config.max_positions
        return min(positions, self.config.sliding_window or positions)

    def flops_per_token(self, row_length: float) -> float:
        """Floating-point operations of one token in a row of so many tokens.

        2 an element of the matrices; 4 an element of the heads and attended token (query times
        key, probability times value), of which a causal kernel skips half.
        """
        attended = row_length / 2 if self.causal else row_length
        attention = 4 * self.config.num_layers * self.config.queries_size * attended
        return 2 * self.matrix_parameters + attention

    def same_shape(self, other: ModelAccount) -> bool:
        """Whether both cost the same: the Mistral embedders are one model to a device."""
        return self.config == other.config and self.causal == other.causal


@cache
def _shapes() -> Mapping[str, Any]:
    file = resources.files("lasttoken_perf.plan") / "data" / "model_shapes.json"
    shapes: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return shapes


def known_models() -> tuple[str, ...]:
    """Catalogue names that can be planned for without a checkpoint."""
    return tuple(sorted(_shapes()["models"]))


def model_account(model: str) -> ModelAccount:
    """Account of a catalogue's model, or of a folder with config.json.

    Raises:
        UnknownModel: Neither a known name nor such a folder.
        InvalidPlan: The folder's config.json cannot be read as a JSON object.
        ExportError: Its architecture or a setting is not implemented, or a setting is malformed.
    """
    models, configs = _shapes()["models"], _shapes()["configs"]
    if model in models:
        config = read_config(configs[models[model]["config"]])
        return ModelAccount(name=model, config=config, causal=models[model]["causal"])
    try:
        settings = read_object(Path(model) / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        raise UnknownModel(
            f"{model!r} is neither a folder with config.json nor one of {', '.join(known_models())}"
        ) from None
    except CorruptFile as error:
        raise InvalidPlan(str(error)) from None
    except (OSError, ValueError) as error:  # no permission; a name that no file can have
        raise InvalidPlan(f"config.json of {model!r} cannot be read: {error}") from None
    config = read_config(settings)
    return ModelAccount(name=model, config=config, causal=isinstance(config, DecoderConfig))
