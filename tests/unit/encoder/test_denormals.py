import platform
import threading

import numpy as np
import onnx_ir as ir
import pytest
from denormals import denormals_are_zero
from onnxruntime_engine import OnnxRuntimeEngine

from lasttoken_export.graph.builder import GraphBuilder

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the switch is of x86-64")

TOKENS = 1 << 20
"""So many that all threads of the session share the product."""


def is_flushed():
    return bool(np.float32(2e-38) * np.float32(0.01) == 0)


def test_only_inside_and_only_on_this_thread():
    inside, seen = threading.Event(), []

    def other():
        inside.wait(10)
        seen.append(is_flushed())

    thread = threading.Thread(target=other)
    thread.start()
    assert not is_flushed()
    with denormals_are_zero():
        assert is_flushed()
        assert np.full(9, 1e-39, np.float32).sum() == 0  # as an input too
        inside.set()
        thread.join()
    assert not is_flushed()
    assert seen == [False]


def test_it_ends_with_an_error_too():
    with pytest.raises(ValueError, match="within"), denormals_are_zero():
        raise ValueError("within")
    assert not is_flushed()


@pytest.fixture
def engine(tmp_path):
    """A graph whose products are denormal."""
    graph = GraphBuilder("denormal")
    ids = graph.input("input_ids", ir.DataType.INT32, ["tokens"])
    graph.input("row_lengths", ir.DataType.INT32, ["rows"])
    graph.input("slots", ir.DataType.INT32, ["longest_row"])
    small = graph.op("Cast", [ids], "floats", {"to": ir.DataType.FLOAT})
    for number, factor in enumerate((2e-38, 0.01)):
        constant = graph.constant(np.float32(factor))
        small = graph.op("Mul", [small, constant], f"product_{number}")
    shape = graph.constant(np.asarray([-1, 4], np.int64))
    vectors = graph.op("Reshape", [small, shape], "embedding")
    vectors.shape, vectors.dtype = ir.Shape(["rows", 4]), ir.DataType.FLOAT
    path = tmp_path / "encoder.onnx"
    ir.save(graph.model([vectors], producer="test", version="0"), path)
    return OnnxRuntimeEngine(path, runtime="onnxruntime-cpu", intra_op_threads=2)


def test_no_thread_of_an_engine_computes_denormals(engine):
    assert not is_flushed()  # nor does making a session change the thread that makes it
    ids, lengths = np.ones(TOKENS, np.int32), np.full(TOKENS // 4, 4, np.int32)
    found = []
    thread = threading.Thread(target=lambda: found.append(engine.encode(ids, lengths)))
    thread.start()
    thread.join()
    for vectors in (found[0], engine.encode(ids, lengths)):
        assert vectors.shape == (TOKENS // 4, 4)
        assert not vectors.any()
    assert not is_flushed()
