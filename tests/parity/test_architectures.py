"""Small random checkpoints of every architecture, made by transformers, against transformers."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest
import torch  # noqa: TID251 - the reference
import transformers  # noqa: TID251 - the reference

from lasttoken_export.checkpoint import open_checkpoint, validate_tensors
from lasttoken_export.errors import UnsupportedArchitecture
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from parity.reference import assert_agree, encode_in_batches

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 101,
    "max_position_embeddings": 130,
}


@dataclass
class Case:
    family: str
    kind: str = "Model"
    settings: dict = field(default_factory=dict)
    pooling: str = "last_token"
    attention: str = "causal"
    layer_norm: bool = False


CASES = {
    "qwen2": Case("Qwen2", settings={"num_key_value_heads": 2}),
    "qwen2, both directions": Case(
        "Qwen2", "ForCausalLM", {"num_key_value_heads": 2}, attention="bidirectional"
    ),
    "qwen3": Case("Qwen3", settings={"num_key_value_heads": 2, "head_dim": 32}),
    "qwen3, tied head": Case(
        "Qwen3", "ForCausalLM",
        {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True},
    ),
    "mistral, mean": Case("Mistral", settings={"num_key_value_heads": 2}, pooling="mean"),
    "bert, mean": Case("Bert", pooling="mean", attention="bidirectional"),
    "bert, head of a language model": Case(
        "Bert", "ForMaskedLM", pooling="cls", attention="bidirectional"
    ),
    "xlm-roberta": Case(
        "XLMRoberta",
        settings={"type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5},
        pooling="cls",
        attention="bidirectional",
    ),
    "nomic": Case("NomicBert", pooling="mean", attention="bidirectional", layer_norm=True),
}  # fmt: skip


def build(folder, case):
    torch.manual_seed(5)
    config = getattr(transformers, f"{case.family}Config")(**{**SHAPE, **case.settings})
    model = getattr(transformers, f"{case.family}{case.kind}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of one and biases of none prove nothing
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return getattr(model, model.base_model_prefix, model)


def references(model, rows, case):
    vectors = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.from_numpy(np.asarray(row, np.int64))[None]
            mask = None
            if case.attention == "bidirectional" and case.family == "Qwen2":
                # transformers takes a four-dimensional mask as it is; zeros hide nothing.
                mask = torch.zeros(1, 1, len(row), len(row))
            elif case.attention == "bidirectional":
                mask = torch.ones_like(ids)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state[0]
            pooled = {
                "last_token": hidden[-1], "cls": hidden[0], "mean": hidden.mean(0),
            }[case.pooling]  # fmt: skip
            if case.layer_norm:
                pooled = torch.nn.functional.layer_norm(pooled, pooled.shape)
            vectors.append(torch.nn.functional.normalize(pooled, dim=0).numpy())
    return np.stack(vectors)


def engine_of(folder, case, tmp_path, precision="fp32"):
    checkpoint = open_checkpoint(folder)
    validate_tensors(checkpoint)
    contract = EmbeddingContract(
        pooling=case.pooling, attention=case.attention, layer_norm=case.layer_norm
    )
    graph = model_graph(checkpoint, precision=precision, contract=contract)
    shares_prefixes = case.attention == "causal"  # as it is exported for ONNX Runtime
    model = graph.build(rotary_positions=2048, version="0", shares_prefixes=shares_prefixes)
    ir.save(model, tmp_path / "encoder.onnx", external_data="encoder.onnx.data")
    engine = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    return engine(tmp_path / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1)


@pytest.fixture
def rows():
    random = np.random.default_rng(1)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 60, 7, 7, 7, 40, 64, 128]
    return [random.integers(3, SHAPE["vocab_size"], length, dtype=np.int32) for length in lengths]


@pytest.mark.parametrize("name", CASES)
def test_the_packed_graph_is_the_model(name, tmp_path, rows):
    case = CASES[name]
    model = build(tmp_path / "hf", case)
    engine = engine_of(tmp_path / "hf", case, tmp_path)
    expected = references(model, rows, case)
    vectors = encode_in_batches(engine, rows, 5)
    assert_agree(
        vectors, expected, lowest_cosine=0.99999, largest_difference=1e-4, name=name, rows=rows
    )


@pytest.mark.parametrize("name", ["qwen2, both directions", "qwen3", "bert, mean", "nomic"])
def test_a_rows_vector_is_bitwise_the_same_in_any_company(name, tmp_path, rows):
    build(tmp_path / "hf", CASES[name])
    engine = engine_of(tmp_path / "hf", CASES[name], tmp_path)
    alone = encode_in_batches(engine, rows, 1)
    for seed, batch_rows in enumerate((2, 3, 5, 8, 16)):
        np.testing.assert_array_equal(encode_in_batches(engine, rows, batch_rows, seed=seed), alone)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_weights_stay_close(name, tmp_path, rows):
    case = CASES[name]
    model = build(tmp_path / "hf", case)
    engine = engine_of(tmp_path / "hf", case, tmp_path, precision="fp16")
    vectors = encode_in_batches(engine, rows, 5)
    expected = references(model, rows, case)
    assert_agree(vectors, expected, lowest_cosine=0.9999, name=name, rows=rows, precision="fp16")


def test_both_directions_is_another_model_than_causal(tmp_path, rows):
    case = CASES["qwen2, both directions"]
    model = build(tmp_path / "hf", case)
    causal = Case("Qwen2", "ForCausalLM", case.settings)
    both = references(model, rows[-1:], case)
    assert (both * references(model, rows[-1:], causal)).sum() < 0.999


def test_an_encoder_is_not_built_causal(tmp_path):
    build(tmp_path / "hf", CASES["bert, mean"])
    with pytest.raises(UnsupportedArchitecture, match="'bidirectional'"):
        engine_of(tmp_path / "hf", Case("Bert", pooling="mean"), tmp_path)
