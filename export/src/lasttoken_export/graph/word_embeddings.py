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
    blocks = size // (block or size)
    four = bits == 4 and block is not None

    def read() -> NDArray[np.float32]:
        return checkpoint.read(name).astype(np.float32).reshape(words, blocks, -1)

    def scales() -> NDArray[np.float32]:
        elements_first = read().transpose(2, 0, 1)
        if four:
            flat = elements_first.reshape(size // blocks, -1)
            return int4_block_scales(flat, size // blocks).reshape(words, blocks)
        return in_half_precision(int8_channel_scales(elements_first))

    def packed() -> NDArray[np.uint8]:
        codes = np.clip(np.rint(read() / scales()[..., None]), -8, 7).reshape(words, size)
        nibbles = (codes + 8).astype(np.uint8)
        halves: NDArray[np.uint8] = nibbles[:, : size // 2] | (nibbles[:, size // 2 :] << 4)
        return halves

    if four:
        table = graph.weight(name, (words, size // 2), ir.DataType.UINT8, packed)
    else:
        table = graph.weight(
            name, (words, blocks, size // blocks), ir.DataType.INT8,
            lambda: to_int8(read(), scales()[..., None]),
        )  # fmt: skip
    scale = graph.weight(
        f"{name}.scale", (words, blocks, 1), ir.DataType.FLOAT16,
        lambda: scales()[..., None].astype(np.float16),
    )  # fmt: skip
    codes = graph.op("Gather", [table, input_ids], "word_codes", {"axis": 0})
    rows = graph.op("Gather", [scale, input_ids], "word_scales", {"axis": 0})
    floats = graph.op("Cast", [rows], "word_scales_floats", {"to": dtype})
    if four:
        codes = _unpacked(graph, codes)
    values = graph.op("Cast", [codes], "word_codes_floats", {"to": dtype})
    if four:
        eight = graph.constant(np.asarray(8, dtype.numpy()))
        centred = graph.op("Sub", [values, eight], "word_codes_centred")
        by_block = graph.constant(np.asarray([-1, blocks, size // blocks], np.int64))
        values = graph.op("Reshape", [centred, by_block], "word_codes_blocks")
    product = graph.op("Mul", [values, floats], "word_blocks")
    flat = graph.constant(np.asarray([-1, size], np.int64))
    return graph.op("Reshape", [product, flat], "words")


def _unpacked(graph: GraphBuilder, packed: ir.Value) -> ir.Value:
    """Part bytes ``[T, size / 2]`` into their halves, the lower ones first: ``[T, size]``."""
    four, fifteen = (graph.constant(np.asarray(number, np.uint8)) for number in (4, 15))
    halves = [
        graph.op("BitwiseAnd", [packed, fifteen], "word_codes_low"),
        graph.op("BitShift", [packed, four], "word_codes_high", {"direction": "RIGHT"}),
    ]
    return graph.op("Concat", halves, "word_codes_unpacked", {"axis": -1})
