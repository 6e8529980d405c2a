"""Weights in int8 for vLLM, in the form that its users' tools (llm-compressor) write.

Linear layers' weights are rounded to the nearest with a scale an output channel; inputs get a scale
a token when they come (W8A8). Tools that calibrate round more cleverly; the products, and so their
speed, are the same.

Source: https://github.com/vllm-project/compressed-tensors
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

_LINEAR = re.compile(r"(^|\.)layers?\.\d+\..*\.weight$")
_SCHEME: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["re:.*pooler.*", "lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel",
                        "dynamic": False},
            "input_activations": {"num_bits": 8, "type": "int", "symmetric": True,
                                  "strategy": "token", "dynamic": True},
        }
    },
}  # fmt: skip


def write_int8_folder(source: Path, folder: Path) -> Path:
    """Write a Hugging Face folder anew with the layers' linear weights in int8.

    Args:
        source: With config.json and safetensors files of floats.
        folder: Written unless it is there.

    Returns:
        ``folder``.
    """
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors: dict[str, NDArray[Any]] = {}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                if tensor.ndim == 2 and _LINEAR.search(name):
                    tensor, tensors[f"{name}_scale"] = round_channels(tensor)
                tensors[name] = tensor
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    config_file = partial / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps({**config, "quantization_config": _SCHEME}), encoding="utf-8")
    return partial.rename(folder)


def round_channels(weight: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round ``[out, in]`` to int8 with a scale a row: the codes, and ``[out, 1]`` the scales."""
    floats = weight.astype(np.float32)
    scale = np.abs(floats).max(axis=1, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(floats / scale).astype(np.int8), scale
