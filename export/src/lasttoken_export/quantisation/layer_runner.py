"""Runs a model layer by layer on ONNX Runtime, so that only one layer's weights are in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from lasttoken_export.graph.packed_graph import CalibrationLayer
from lasttoken_export.quantisation.calibration_folder import unfinished_prefix

Tokens = NDArray[np.int32]
BATCH_TOKENS = 1024
"""Most tokens of a batch of several rows; a longer row is a batch of its own."""


def packed_batches(rows: Sequence[Tokens]) -> list[list[Tokens]]:
    """Group rows, shortest first, into batches: gathered attention pads to the longest."""
    batches: list[list[Tokens]] = []
    for row in sorted(rows, key=len):
        if batches and sum(map(len, batches[-1])) + len(row) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


class LayerRunner:
    """One layer on ONNX Runtime.

    Args:
        layer: Its graph; the weights are written to a temporary file and read from there.
        folder: Where there is room for that file.
    """

    def __init__(self, layer: CalibrationLayer, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=unfinished_prefix(), dir=folder) as temporary:
            path = Path(temporary) / "layer.onnx"
            ir.save(layer.model, path, external_data="layer.data")
            options = ort.SessionOptions()
            options.enable_mem_pattern = False
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._needs_hidden = layer.needs_hidden

    def run(
        self, batches: Sequence[Sequence[Tokens]], hidden: Sequence[NDArray[np.float32]]
    ) -> Iterator[list[NDArray[np.float32]]]:
        """Yield, for each batch, the layer's output and the inputs of its linear layers.

        Args:
            batches: Token ids of the rows.
            hidden: What the layer before gave, ``[tokens, hidden]`` each; unused by the first.
        """
        for number, rows in enumerate(batches):
            lengths = np.array([len(row) for row in rows], np.int32)
            feeds: dict[str, NDArray[Any]] = {
                "input_ids": np.concatenate(rows),
                "row_lengths": lengths,
                "slots": np.zeros(int(lengths.max()), np.int32),
            }
            if self._needs_hidden:
                feeds["hidden"] = hidden[number]
            # A graph keeps only the inputs that it uses.
            known = {value.name for value in self._session.get_inputs()}
            outputs: list[NDArray[np.float32]] = self._session.run(
                None, {name: array for name, array in feeds.items() if name in known}
            )
            yield outputs
