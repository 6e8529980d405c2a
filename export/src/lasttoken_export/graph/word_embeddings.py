"""The table of word embeddings in int8, and its lookup."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.quantisation.weights import (
    block_size,
    in_half_precision,
    int8_channel_scales,
    to_int8,
)


def build_int8_words(
    graph: GraphBuilder,
    checkpoint: Checkpoint,
    name: str,
    shape: tuple[int, int],
    input_ids: ir.Value,
    *,
    dtype: ir.DataType,
) -> ir.Value:
    """Look tokens up in a table of int8, with a float16 scale a block of a word's elements.

    Args:
        graph: Graph under construction.
        checkpoint: Has the table.
        name: Its name, in the checkpoint and the graph.
        shape: Words and elements a word.
        input_ids: ``[T]`` int32.
        dtype: Float type of the answer.

    Returns:
        ``[T, elements]``.
    """
    words, size = shape
    blocks = size // (block_size(size) or size)

    def read() -> NDArray[np.float32]:
        return checkpoint.read(name).astype(np.float32).reshape(words, blocks, -1)

    def scales() -> NDArray[np.float32]:
        return in_half_precision(int8_channel_scales(read().transpose(2, 0, 1)))

    table = graph.weight(
        name, (words, blocks, size // blocks), ir.DataType.INT8,
        lambda: to_int8(read(), scales()[..., None]),
    )  # fmt: skip
    scale = graph.weight(
        f"{name}.scale", (words, blocks, 1), ir.DataType.FLOAT16,
        lambda: scales()[..., None].astype(np.float16),
    )  # fmt: skip
    found = []
    for what, stored in (("codes", table), ("scales", scale)):
        rows = graph.op("Gather", [stored, input_ids], f"word_{what}", {"axis": 0})
        found.append(graph.op("Cast", [rows], f"word_{what}_floats", {"to": dtype}))
    product = graph.op("Mul", found, "word_blocks")
    flat = graph.constant(np.asarray([-1, size], np.int64))
    return graph.op("Reshape", [product, flat], "words")
