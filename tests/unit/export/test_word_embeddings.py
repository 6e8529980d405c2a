"""The table of word embeddings in few bits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.word_embeddings import build_rounded_words, word_bits

TABLE = np.random.default_rng(2).normal(size=(50, 96)).astype(np.float32)
TABLE[7] = 0


def look_up(bits, ids, folder):
    graph = GraphBuilder("words")
    found = build_rounded_words(
        graph, SimpleNamespace(read=lambda name: TABLE), "words.weight", TABLE.shape,
        graph.input("input_ids", ir.DataType.INT32, ["tokens"]),
        bits=bits, dtype=ir.DataType.FLOAT,
    )  # fmt: skip
    found.dtype = ir.DataType.FLOAT
    path = folder / f"{bits}.onnx"
    ir.save(graph.model([found], producer="test", version="0"), path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = sum(value.const_value.nbytes for value in ir.load(path).graph.initializers.values())
    return session.run(None, {"input_ids": np.asarray(ids, np.int32)})[0], size


@pytest.mark.parametrize(("bits", "off"), [(8, 0.006), (4, 0.1)])
def test_words_are_found_again(bits, off, tmp_path):
    ids = [3, 49, 0, 3, 7]
    found, _ = look_up(bits, ids, tmp_path)
    expected = TABLE[ids]
    assert found.shape == expected.shape
    assert not found[-1].any()
    error = np.linalg.norm((found - expected)[:-1], axis=1)
    error /= np.linalg.norm(expected[:-1], axis=1)
    assert (error < off).all()


def test_four_bits_are_half_of_eight(tmp_path):
    (_, four), (_, eight) = (look_up(bits, [0], tmp_path) for bits in (4, 8))
    assert 0.5 < four / eight < 0.56


@pytest.mark.parametrize(
    ("words", "weights", "bits"),
    [(1000, "int4", 4), (999, "int4", 8), (1000, "int8", 8)],
)
def test_four_bits_where_the_table_outweighs_the_layers(words, weights, bits):
    config = SimpleNamespace(
        vocab_size=words,
        hidden_size=10,
        num_layers=3,
        layer_shapes=lambda: {"a": (333, 10), "b": (3,)},
    )
    assert word_bits(config, weights) == bits
