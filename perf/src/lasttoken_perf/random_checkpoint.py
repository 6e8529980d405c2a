"""A checkpoint of SFR-Embedding-Mistral's exact shape with random weights, in three shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from lasttoken_export.decoder_config import DecoderConfig

SFR_CONFIG: dict[str, Any] = {
    "architectures": ["MistralModel"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "hidden_act": "silu",
}
"""Source: config.json of Salesforce/SFR-Embedding-Mistral."""

_SHARDS = 3


def write_random_checkpoint(
    folder: Path, config: dict[str, Any], *, seed: int, say: Callable[[str], None]
) -> int:
    """Write config.json, float16 shards and their index.

    Args:
        folder: Where to; created.
        config: Hugging Face's configuration of a decoder.
        seed: Decides the weights.
        say: Told each shard.

    Returns:
        Number of parameters.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = DecoderConfig.from_hugging_face(config).tensor_shapes()
    names = list(shapes)
    random = np.random.default_rng(seed)
    weight_map: dict[str, str] = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors"
        chosen = names[shard * len(names) // _SHARDS : (shard + 1) * len(names) // _SHARDS]
        save_file({name: _weight(shapes[name], random) for name in chosen}, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
        say(f"written {file}")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _weight(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float16]:
    if len(shape) == 1:  # a norm
        return np.ones(shape, np.float16)
    # Uniform, with the spread of trained weights; drawn in parts to stay small.
    weight = np.empty(shape, np.float16)
    for start in range(0, shape[0], 1024):
        part = weight[start : start + 1024]
        part[...] = (random.random(part.shape, np.float32) - 0.5) * np.float32(0.05)
    return weight
