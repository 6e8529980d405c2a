"""Products of bytes are exact, whatever the processor of this machine."""

import platform
from pathlib import Path
from types import SimpleNamespace

import engine_choice
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnxruntime_session import open_session
from processor import int8_products_saturate, processor_flags

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.unsigned_weights import use_unsigned_weights

AVX512 = {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl"}
INPUTS, OUTPUTS = 192, 64


@pytest.mark.parametrize(
    ("flags", "machine", "saturate"),
    [
        ({"avx2"}, "x86_64", True),
        ({"avx2", "avx_vnni"}, "x86_64", False),
        (AVX512, "x86_64", True),
        (AVX512 | {"avx_vnni"}, "x86_64", True),
        (AVX512 | {"avx512_vnni"}, "x86_64", False),
        (set(), "x86_64", True),
        (set(), "aarch64", False),
    ],
)
def test_processors(flags, machine, saturate):
    assert int8_products_saturate(flags, machine) == saturate


def test_flags_are_those_of_the_first_processor(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor_flags(cpuinfo) == {"fpu", "avx2"}
    cpuinfo.write_text("Features\t: asimd\n")
    assert processor_flags(cpuinfo) == frozenset()
    assert processor_flags(tmp_path / "none") == frozenset()


def product(folder, change=lambda model: None):
    """A graph of the largest weights, and what it must give for the largest codes."""
    signs = np.where(np.arange(OUTPUTS) % 2, 1, -1)
    weights = np.tile(127 * signs, (INPUTS, 1)).astype(np.int8)
    graph = GraphBuilder("product")
    codes = graph.input("codes", ir.DataType.UINT8, ["tokens", INPUTS])
    one = graph.constant(np.asarray(1, np.float32))
    product = graph.op(
        "MatMulIntegerToFloat",
        [
            codes,
            graph.weight("weight", weights.shape, ir.DataType.INT8, lambda: weights),
            one,
            graph.constant(np.ones(OUTPUTS, np.float32)),
            graph.constant(np.asarray(128, np.uint8)),
        ],
        "embedding",
        domain="com.microsoft",
    )
    product.shape, product.dtype = ir.Shape(["tokens", OUTPUTS]), ir.DataType.FLOAT
    model = graph.model([product], producer="test", version="0")
    change(model)
    path = folder / "product.onnx"
    ir.save(model, path)
    return path, 127.0 * 127 * INPUTS * signs


def codes(tokens):
    return np.full((tokens, INPUTS), 255, np.uint8)


@pytest.mark.parametrize("tokens", [1, 2, 40])  # one token is another kernel
def test_an_engines_products_are_exact(tokens, tmp_path):
    path, expected = product(tmp_path)
    session = open_session(path, runtime="onnxruntime-cpu", intra_op_threads=1)
    [found] = session.run(None, {"codes": codes(tokens)})
    assert found.shape == (tokens, OUTPUTS)
    assert (found == expected).all()


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_unsigned_weights_are_exact_in_any_session(tokens, tmp_path):
    path, expected = product(tmp_path, use_unsigned_weights)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"codes": codes(tokens)})
    assert (found == expected).all()


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_products_of_blocks_are_exact_too(tokens, tmp_path):
    """What int8-weights writes; the runtime rounds the inputs, here to their largest codes."""
    signs = np.where(np.arange(OUTPUTS) % 2, 1, -1)
    weights = np.tile(127 * signs, (INPUTS, 1)).astype(np.int8)
    graph = GraphBuilder("blocks")
    values = graph.input("values", ir.DataType.FLOAT, ["tokens", INPUTS])
    stored = graph.weight("weight", weights.shape, ir.DataType.INT8, lambda: weights)
    scales = graph.constant(np.ones((INPUTS // 32, OUTPUTS), np.float32))
    blocks = {"axis": 0, "block_size": 32}
    weight = graph.op("DequantizeLinear", [stored, scales], "dequantised", blocks)
    product = graph.op("MatMul", [values, weight], "embedding")
    product.shape, product.dtype = ir.Shape(["tokens", OUTPUTS]), ir.DataType.FLOAT
    path = tmp_path / "blocks.onnx"
    ir.save(graph.model([product], producer="test", version="0"), path)
    session = open_session(path, runtime="onnxruntime-cpu", intra_op_threads=1)
    [found] = session.run(None, {"values": np.ones((tokens, INPUTS), np.float32)})
    np.testing.assert_allclose(found, np.tile(127.0 * INPUTS * signs, (tokens, 1)), rtol=1e-6)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the option is of x86-64")
def test_weights_stay_signed_where_that_is_exact(tmp_path, monkeypatch):
    """Their kernels are the fast ones of processors with VNNI."""
    path, _ = product(tmp_path)
    kept = ort.SessionOptions()
    kept.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    monkeypatch.setattr("onnxruntime_session.ort.SessionOptions", lambda: kept)
    for saturate, dtype in ((False, ir.DataType.INT8), (True, ir.DataType.UINT8)):
        monkeypatch.setattr(
            "onnxruntime_session.int8_products_saturate", lambda flags, answer=saturate: answer
        )
        open_session(path, runtime="onnxruntime-cpu", intra_op_threads=1)
        [node] = ir.load(tmp_path / "optimised.onnx").graph
        assert node.inputs[1].const_value.dtype == dtype


@pytest.mark.parametrize(
    ("precision", "saturate", "told"),
    [("int8", True, True), ("int8", False, False), ("int8-weights", True, False)],
)
def test_a_server_says_that_int8_is_slow_there(precision, saturate, told, monkeypatch, caplog):
    monkeypatch.setattr(engine_choice, "int8_products_saturate", lambda flags: saturate)
    monkeypatch.setattr(engine_choice, "PaddedEngine", lambda graph, **options: graph)
    settings = SimpleNamespace(
        runtime="onnxruntime-cpu", graph_form="padded", precision=precision, intra_op_threads=0,
        streams=1,
    )  # fmt: skip
    assert engine_choice.open_engine(Path("1"), settings) == Path("1/encoder.onnx")
    assert ("no VNNI" in caplog.text) == told
