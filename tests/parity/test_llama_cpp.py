"""GGUF files that llama.cpp quantised, against llama.cpp's own embeddings of the same files.

llama.cpp rounds activations to 8 bits before each product, which the dequantised weights here do
not, so the two agree closely but not to the last digits. tests/parity/llama_cpp made the files.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from lasttoken_export.checkpoint import GgufFile, validate_tensors
from lasttoken_export.graph.decoder import DecoderGraph
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from parity.reference import assert_agree, encode_in_batches

FOLDER = Path(__file__).parent / "llama_cpp"
KINDS = ("Q8_0", "Q4_0", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")


@pytest.fixture(scope="module")
def made():
    with np.load(FOLDER / "embeddings.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_llama_cpps(kind, made, tmp_path):
    checkpoint = GgufFile(FOLDER / f"tiny-{kind}.gguf")
    validate_tensors(checkpoint)
    graph = DecoderGraph(checkpoint, precision="fp32").build(rotary_positions=256, version="0")
    ir.save(graph, tmp_path / "encoder.onnx", external_data="encoder.onnx.data")
    engine_class = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    engine = engine_class(tmp_path / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1)
    rows = np.split(made["input_ids"], np.cumsum(made["lengths"])[:-1])
    vectors = encode_in_batches(engine, rows, 3)
    assert_agree(
        vectors, made[kind], lowest_cosine=0.9995, name=f"GGUF {kind}", rows=rows,
        made_by="llama.cpp",
    )  # fmt: skip
    # The file's own quantisation is what was read: llama.cpp's unquantised vectors are farther.
    ours = (vectors * made[kind]).sum(axis=1).min()
    assert ours > (vectors * made["F32"]).sum(axis=1).min()
