"""Small random checkpoints of the family, made by transformers, against transformers."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch  # noqa: TID251 - the reference
import transformers  # noqa: TID251 - the reference

from lasttoken_export.checkpoint import open_checkpoint, validate_tensors
from lasttoken_export.graph.decoder import DecoderGraph
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from parity.reference import assert_agree, encode_in_batches, last_token_vectors

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 101,
    "max_position_embeddings": 128,
}
CASES = {
    "grouped queries": ("Mistral", "MistralModel", {"num_key_value_heads": 2}),
    "one key head": ("Mistral", "MistralModel", {"num_key_value_heads": 1}),
    "wide heads": ("Mistral", "MistralModel", {"num_key_value_heads": 2, "head_dim": 32}),
    "window": ("Mistral", "MistralModel", {"num_key_value_heads": 4, "sliding_window": 64}),
    "head of a language model": ("Mistral", "MistralForCausalLM", {"num_key_value_heads": 2}),
    "llama": ("Llama", "LlamaModel", {"num_key_value_heads": 2, "rope_theta": 50_000.0}),
    "llama, tied head": ("Llama", "LlamaForCausalLM", {"tie_word_embeddings": True}),
}


def build(folder, kind, model_class, settings, **saving):
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **settings})
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of one and biases of none prove nothing
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, **saving)
    return getattr(model, "model", model)


def engine_of(checkpoint, folder, precision="fp32"):
    validate_tensors(checkpoint)
    graph = DecoderGraph(checkpoint, precision=precision).build(rotary_positions=512, version="0")
    path = folder / "encoder.onnx"
    ir.save(graph, path, external_data="encoder.onnx.data")
    engine = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    return engine(path, runtime="onnxruntime-cpu", intra_op_threads=1)


@pytest.fixture
def rows():
    random = np.random.default_rng(1)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 60, 7, 7, 7, 40, 64]
    return [random.integers(0, SHAPE["vocab_size"], length, dtype=np.int32) for length in lengths]


@pytest.mark.parametrize("case", CASES)
def test_the_packed_graph_is_the_model(case, tmp_path, rows):
    model = build(tmp_path / "hf", *CASES[case])
    engine = engine_of(open_checkpoint(tmp_path / "hf"), tmp_path)
    reference = last_token_vectors(model, rows)
    for batch_rows in (1, 4, len(rows)):
        vectors = encode_in_batches(engine, rows, batch_rows)
        noted = {"name": case if case.startswith("llama") else f"mistral, {case}", "rows": rows}
        noted = noted if batch_rows == 4 else {}
        assert_agree(vectors, reference, lowest_cosine=0.99999, largest_difference=1e-4, **noted)


def test_shards_are_the_same_model(tmp_path, rows):
    case = CASES["head of a language model"]
    model = build(tmp_path / "hf", *case, max_shard_size="40KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 3
    engine = engine_of(open_checkpoint(tmp_path / "hf"), tmp_path)
    vectors = encode_in_batches(engine, rows, 5)
    reference = last_token_vectors(model, rows)
    assert_agree(vectors, reference, lowest_cosine=0.99999, largest_difference=1e-4)


def test_half_precision_weights_stay_close(tmp_path, rows):
    model = build(tmp_path / "hf", *CASES["grouped queries"])
    engine = engine_of(open_checkpoint(tmp_path / "hf"), tmp_path, precision="fp16")
    vectors = encode_in_batches(engine, rows, 5)
    assert_agree(vectors, last_token_vectors(model, rows), lowest_cosine=0.9999)


def test_bfloat16_checkpoints_are_read(tmp_path, rows):
    model = build(tmp_path / "hf", *CASES["grouped queries"]).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "bf16")
    engine = engine_of(open_checkpoint(tmp_path / "bf16"), tmp_path)
    # Loaded anew: a conversion in place would leave the rotary frequencies rounded to bfloat16.
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "bf16", dtype=torch.float32)
    reference = last_token_vectors(loaded.eval(), rows)
    vectors = encode_in_batches(engine, rows, 5)
    assert_agree(vectors, reference, lowest_cosine=0.99999, largest_difference=1e-4)


def test_a_rows_vector_is_bitwise_the_same_in_any_company(tmp_path, rows):
    build(tmp_path / "hf", *CASES["grouped queries"])
    engine = engine_of(open_checkpoint(tmp_path / "hf"), tmp_path)
    alone = encode_in_batches(engine, rows, 1)
    for seed, batch_rows in enumerate((2, 3, 5, 8, 15)):
        np.testing.assert_array_equal(encode_in_batches(engine, rows, batch_rows, seed=seed), alone)


def test_a_row_that_overflows_does_not_spoil_its_neighbours(tmp_path):
    model = build(tmp_path / "hf", *CASES["grouped queries"])
    with torch.no_grad():
        model.embed_tokens.weight[100] = float("nan")
    model.save_pretrained(tmp_path / "hf")
    engine = engine_of(open_checkpoint(tmp_path / "hf"), tmp_path)
    good, bad, long = [1, 2, 3], [100] * 9, list(range(20))
    for company in ([good, bad, long], [bad, good, long], [long, good, bad]):
        vectors = encode_in_batches(engine, company, 3, seed=0)
        for row, vector in zip(company, vectors, strict=True):
            assert np.isnan(vector).all() == (row is bad)
        for row in (good, long):
            [alone] = encode_in_batches(engine, [row], 1)
            np.testing.assert_array_equal(vectors[company.index(row)], alone)


def test_the_file_keeps_the_contract_of_names_types_and_shapes(tmp_path):
    build(tmp_path / "hf", *CASES["grouped queries"])
    engine_of(open_checkpoint(tmp_path / "hf"), tmp_path)
    model = onnx.load(tmp_path / "encoder.onnx", load_external_data=False)
    onnx.checker.check_model(str(tmp_path / "encoder.onnx"), full_check=True)

    def signature(values):
        return {
            v.name: (
                onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type),
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        }

    assert signature(model.graph.input) == {
        "input_ids": ("INT32", ["tokens"]),
        "row_lengths": ("INT32", ["rows"]),
        "slots": ("INT32", ["longest_row"]),
    }
    assert signature(model.graph.output) == {"embedding": ("FLOAT", ["rows", 64])}
    assert {node.domain for node in model.graph.node} == {""}
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "layers.0/queries_keys" in names
