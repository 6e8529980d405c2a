"""The table of word embeddings in few bits, and its lookup."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.architectures import ModelConfig
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.quantisation.weights import (
    block_size,
    in_half_precision,
    int4_block_scales,
    int8_channel_scales,
    pack_by_columns,
    to_int8,
)


def word_bits(config: ModelConfig, weights: str) -> int:
    """Return the bits of the table's elements: 4 with int4 weights where it outweighs all layers.

    Elsewhere 4 bits would save little of the file, and cost more than the layers' do.

    Args:
        config: Of the model.
        weights: Kind of the layers' weights.
    """
    in_layers = config.num_layers * sum(map(math.prod, config.layer_shapes().values()))
    outweighs = config.vocab_size * config.hidden_size > in_layers
    return 4 if weights == "int4" and outweighs else 8


def build_rounded_words(
    graph: GraphBuilder,
    checkpoint: Checkpoint,
    name: str,
    shape: tuple[int, int],
    input_ids: ir.Value,
    *,
    bits: int,
    dtype: ir.DataType,
) -> ir.Value:
    """Look tokens up in a table of int8 or int4, a float16 scale a block of a word's elements.

    Args:
        graph: Graph under construction.
        checkpoint: Has the table.
        name: Its name, in the checkpoint and the graph.
        shape: Words and elements a word.
        input_ids: ``[T]`` int32.
        bits: 8 or 4; 8 where the elements do not divide into blocks.
        dtype: Float type of the answer.

    Returns:
        ``[T, elements]``.
    """
    words, size = shape
    block = block_size(size)
    four = bits == 4 and block is not None
    block = block or size
    blocks = size // block

    def read() -> NDArray[np.float32]:
        return checkpoint.read(name).astype(np.float32).reshape(words, blocks, block)

    def scales() -> NDArray[np.float32]:  # [words, blocks]
        elements_first = read().transpose(2, 0, 1)
        if four:
            flat = int4_block_scales(elements_first.reshape(block, -1), block)
            return flat.reshape(words, blocks)
        return in_half_precision(int8_channel_scales(elements_first))

    def packed() -> NDArray[np.uint8]:
        codes = np.clip(np.rint(read() / scales()[..., None]), -8, 7).astype(np.int8)
        return pack_by_columns(codes.reshape(words, size).T, block)

    if four:
        table = graph.weight(name, (words, blocks, block // 2), ir.DataType.UINT8, packed)
    else:
        table = graph.weight(
            name, (words, blocks, block), ir.DataType.INT8,
            lambda: to_int8(read(), scales()[..., None]),
        )  # fmt: skip
    scale = graph.weight(
        f"{name}.scale", (words, blocks, 1), ir.DataType.FLOAT16,
        lambda: scales()[..., None].astype(np.float16),
    )  # fmt: skip
    codes = graph.op("Gather", [table, input_ids], "word_codes", {"axis": 0})
    if four:
        values = _unpacked(graph, codes, (blocks, block), dtype)
    else:
        values = graph.op("Cast", [codes], "word_codes_floats", {"to": dtype})
    rows = graph.op("Gather", [scale, input_ids], "word_scales", {"axis": 0})
    factors = graph.op("Cast", [rows], "word_scales_floats", {"to": dtype})
    product = graph.op("Mul", [values, factors], "word_blocks")
    flat = graph.constant(np.asarray([-1, size], np.int64))
    return graph.op("Reshape", [product, flat], "words")


def _unpacked(
    graph: GraphBuilder, packed: ir.Value, blocks: tuple[int, int], dtype: ir.DataType
) -> ir.Value:
    """Undo `pack_by_columns`: bytes ``[T, blocks, block / 2]`` to floats ``[T, blocks, block]``."""
    four, fifteen = (graph.constant(np.asarray(number, np.uint8)) for number in (4, 15))
    last_axis = graph.constant(np.asarray([-1], np.int64))
    halves = {
        "low": graph.op("BitwiseAnd", [packed, fifteen], "word_codes_low"),
        "high": graph.op("BitShift", [packed, four], "word_codes_high", {"direction": "RIGHT"}),
    }
    columns = [
        graph.op("Unsqueeze", [half, last_axis], f"word_codes_{which}_column")
        for which, half in halves.items()
    ]
    pairs = graph.op("Concat", columns, "word_codes_pairs", {"axis": -1})
    shape = graph.constant(np.asarray([-1, *blocks], np.int64))
    codes = graph.op("Reshape", [pairs, shape], "word_codes_blocks")
    floats = graph.op("Cast", [codes], "word_codes_floats", {"to": dtype})
    eight = graph.constant(np.asarray(8, dtype.numpy()))
    return graph.op("Sub", [floats, eight], "word_codes_centred")
