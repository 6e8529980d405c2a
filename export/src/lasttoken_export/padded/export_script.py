"""Run by the Python of `environment.optimum_python`: exports a folder and computes a reference.

``python export_script.py FOLDER OUTPUT``: reads OUTPUT/rows.npz (``input_ids [T]``, ``lengths
[B]``), writes OUTPUT/model.onnx, OUTPUT/reference.npz (``hidden [T, D] float32``, each row computed
alone by transformers) and OUTPUT/attention.txt (``causal`` or ``bidirectional``, as found). No code
of the model's folder is run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch  # noqa: TID251 - this script has an environment of its own
from optimum.exporters.onnx import onnx_export_from_model
from transformers import AutoModel  # noqa: TID251 - this script has an environment of its own

OPSET = 18
"""The newest that the tracing exporter of torch writes; LayerNormalization needs 17."""


def main() -> None:
    """Export, then compute."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    model = AutoModel.from_pretrained(
        folder, torch_dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    with np.load(output / "rows.npz") as file:
        rows = np.split(file["input_ids"], np.cumsum(file["lengths"])[:-1])
    np.savez(output / "reference.npz", hidden=np.concatenate([hidden(model, row) for row in rows]))
    (output / "attention.txt").write_text(attention(model, rows[4]))
    onnx_export_from_model(
        model,
        output,
        opset=OPSET,
        task="feature-extraction",
        do_validation=False,
        preprocessors=[],
    )


def hidden(model: torch.nn.Module, row: np.ndarray) -> np.ndarray:
    """Return the hidden states ``[tokens, D]`` of one row."""
    ids = torch.from_numpy(np.asarray(row, np.int64))[None]
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return np.asarray(states[0].float())


def attention(model: torch.nn.Module, row: np.ndarray) -> str:
    """Find out whether the first token sees the last one."""
    changed = row.copy()
    changed[-1] = row[row != row[-1]][0]
    same = np.array_equal(hidden(model, row)[0], hidden(model, changed)[0])
    return "causal" if same else "bidirectional"


if __name__ == "__main__":
    main()
