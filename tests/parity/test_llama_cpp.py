"""GGUF files that llama.cpp quantised, against llama.cpp's own embeddings of the same files.

llama.cpp rounds activations to 8 bits before each product, which the dequantised weights here do
not, so the two agree closely but not to the last digits. tests/parity/llama_cpp made the files.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer

from lasttoken_export.checkpoint import GgufFile, validate_tensors
from lasttoken_export.graph.decoder import DecoderGraph
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from parity.llama_cpp.encoder_texts import TEXTS
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


ENCODERS = {"bert": "mean", "xlm-roberta": "cls", "nomic-bert": "mean"}
"""Files that llama.cpp's own converter wrote, with F32, F16 and BF16 weights, and their pooling."""


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_that_llama_cpp_converted_give_its_tokens_and_vectors(name, tmp_path):
    checkpoint = GgufFile(FOLDER / f"tiny-{name}.gguf")
    validate_tensors(checkpoint)
    contract = EmbeddingContract(pooling=ENCODERS[name], attention="bidirectional")
    graph = model_graph(checkpoint, precision="fp32", contract=contract)
    ir.save(graph.build(rotary_positions=256, version="0"), tmp_path / "encoder.onnx")
    engine_class = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    engine = engine_class(tmp_path / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1)
    with np.load(FOLDER / f"tiny-{name}.npz") as made:
        rows = np.split(made["input_ids"], np.cumsum(made["lengths"])[:-1])
        expected = made["vectors"]
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json())
    opening = 0 if name == "xlm-roberta" else 1  # its vocabulary kind has llama.cpp add </s> only
    for text, row in zip(TEXTS, rows, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == row[opening:-1].tolist(), text
    vectors = encode_in_batches(engine, rows, 3)
    assert_agree(
        vectors, expected, lowest_cosine=0.99999, largest_difference=1e-3, rows=rows,
        name=f"GGUF {name}", made_by="llama.cpp",
    )  # fmt: skip
