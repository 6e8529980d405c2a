import numpy as np
import onnx_ir as ir
import pytest
from computed_work import ComputedWork, packed_work, padded_work
from padded_engine import PaddedEngine, pad_rows
from streams import Streams

from lasttoken_export.graph.builder import GraphBuilder


def test_rows_are_filled_up_behind_their_end():
    ids, mask = pad_rows(np.array([5, 6, 7, 8], np.int32), np.array([1, 3], np.int32))
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert ids.dtype == mask.dtype == np.int64


def test_work_counts_tokens_and_cells():
    ids, lengths = np.zeros(10, np.int32), np.array([2, 5, 3], np.int32)
    assert packed_work(ids, lengths) == ComputedWork(tokens=10, attention_cells=75)
    assert padded_work(ids, lengths) == ComputedWork(tokens=15, attention_cells=75)
    assert packed_work(ids, lengths) + padded_work(ids, lengths) == ComputedWork(
        tokens=25, attention_cells=150
    )
    shared = packed_work(ids[:7], lengths)
    assert shared == ComputedWork(tokens=7, attention_cells=75, shared_tokens=3)
    assert (shared + shared).shared_tokens == 6
    kept = packed_work(np.arange(3, dtype=np.int32), np.array([5], np.int32), kept_tokens=2)
    assert kept == ComputedWork(tokens=3, attention_cells=25, kept_tokens=2)
    assert (kept + kept + shared).kept_tokens == 4


@pytest.fixture
def engine(tmp_path):
    """A graph whose vector is the shape of what it was given, and the sum of the mask."""
    graph = GraphBuilder("shape")
    ids = graph.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
    mask = graph.input("attention_mask", ir.DataType.INT64, ["batch", "sequence"])
    axis = graph.constant(np.asarray([1], np.int64))
    real = graph.op("ReduceSum", [mask, axis], "real", {"keepdims": 1})
    slots = graph.op("Add", [graph.op("Mul", [ids, graph.constant(np.int64(0))], "none"),
                             graph.constant(np.int64(1))], "ones")  # fmt: skip
    width = graph.op("ReduceSum", [slots, axis], "width", {"keepdims": 1})
    both = graph.op("Concat", [real, width], "both", {"axis": 1})
    vectors = graph.op("Cast", [both], "embedding", {"to": ir.DataType.FLOAT})
    vectors.shape, vectors.dtype = ir.Shape(["batch", 2]), ir.DataType.FLOAT
    ir.save(graph.model([vectors], producer="test", version="0"), tmp_path / "encoder.onnx")
    return PaddedEngine(
        tmp_path / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1,
        streams=Streams(count=2, sessions=1),
    )  # fmt: skip


def test_the_work_is_that_of_the_tensors_given_to_the_graph(engine):
    ids, lengths = np.arange(10, dtype=np.int32), np.array([2, 5, 3], np.int32)
    vectors = engine.encode(ids, lengths)
    assert vectors[:, 0].tolist() == lengths.tolist()
    assert vectors[:, 1].sum() == engine.computed_work(ids, lengths).tokens
    assert engine.dimensions == 2


def test_a_stream_gives_the_same_vectors(engine):
    lengths = np.array([2, 5, 3], np.int32)
    batch = np.arange(10, dtype=np.int32), lengths
    assert np.array_equal(engine.encode_in_stream(*batch), engine.encode(*batch))
    assert engine.streams == 2
