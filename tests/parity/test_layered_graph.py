"""Graphs that are run a layer at a time give the vectors of the whole graph."""

from __future__ import annotations

import weakref

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import NotEnoughMemory
from lasttoken_export.graph.graph_memory import memory_to_run, weight_bytes
from lasttoken_export.graph.layer_slices import slice_by_layers
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality import layered_graph
from lasttoken_export.quality.layered_graph import LayeredGraph
from lasttoken_export.quality.token_rows import encode_batches, open_graph, open_within_memory
from lasttoken_export.quantisation.calibrate import calibrate_model
from parity.packed_files import write_packed_graph
from parity.test_architectures import CASES, build

LENGTHS = ((5,), (33,), (17, 30, 64, 1), (90, 2, 31))
CALIBRATION_ROWS = 6


def batches(vocabulary=101):
    """Rows of which some begin alike, as queries do."""
    random = np.random.default_rng(2)
    made = [[random.integers(2, vocabulary, n, dtype=np.int32) for n in ns] for ns in LENGTHS]
    made[3][2][:20] = made[3][0][:20]
    return made


def contract_of(case):
    return EmbeddingContract(
        pooling=case.pooling, attention=case.attention, layer_norm=case.layer_norm
    )


def layers_of(folder):
    return open_checkpoint(folder).config.num_layers


@pytest.mark.parametrize("name", CASES)
def test_a_graph_that_was_never_written_gives_the_vectors_of_the_whole(tmp_path, name):
    case = CASES[name]
    build(tmp_path / "hf", case)
    contract = contract_of(case)
    expected = encode_batches(
        open_graph(write_packed_graph(tmp_path, "fp32", contract, rows=[])), batches()
    )
    model = model_graph(
        open_checkpoint(tmp_path / "hf"), precision="fp32", contract=contract
    ).build(rotary_positions=512, version="0")
    found = LayeredGraph(model, tmp_path).encode_batches(batches())
    assert [part.shape for part in found] == [part.shape for part in expected]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=2e-6)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weights", "int4"])
@pytest.mark.parametrize("name", ["qwen2", "bert, mean"])
def test_a_written_graph_gives_the_vectors_of_the_whole(tmp_path, name, precision):
    case = CASES[name]
    build(tmp_path / "hf", case)
    shares = case.attention == "causal"
    graph = write_packed_graph(
        tmp_path,
        precision,
        contract_of(case),
        rows=batches()[2] + batches()[3],
        shares_prefixes=shares,
        keeps_prefixes=shares and case.pooling == "last_token",
    )
    expected = encode_batches(open_graph(graph), batches())
    found = LayeredGraph(ir.load(graph), tmp_path).encode_batches(batches())
    # Half precision is rounded between layers, where ONNX Runtime may have gone on in floats.
    atol = 1e-3 if precision == "fp16" else 2e-6
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=atol)


@pytest.mark.parametrize("precision", ["int8-weights", "int4"])
def test_a_lone_token_behind_whole_blocks_is_not_alone(tmp_path, monkeypatch, precision):
    """One token behind 128 has other last bits in weights of blocks; so the server adds a row."""
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    graph = write_packed_graph(tmp_path, precision, contract_of(case), rows=batches()[2])
    random = np.random.default_rng(3)
    rows = [[random.integers(2, 101, n, dtype=np.int32) for n in ns] for ns in ((129,), (128, 1))]
    expected = encode_batches(open_graph(graph), rows)
    layered = LayeredGraph(ir.load(graph), tmp_path)
    run, seen = layered._sessions.run_session, []

    def noting(session, feeds, outputs):
        seen.append(len(feeds["row_lengths"]) if "row_lengths" in feeds else None)
        return run(session, feeds, outputs)

    monkeypatch.setattr(layered._sessions, "run_session", noting)
    found = layered.encode_batches(rows)
    assert [part.shape for part in found] == [(1, 64), (2, 64)]
    assert seen[:2] == [2, 3], "a row more than there are"
    for whole, part in zip(expected, found, strict=True):
        np.testing.assert_array_equal(part, whole)


def test_a_graph_that_the_processor_cannot_run_is_refused_when_it_is_opened(tmp_path):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    model = model_graph(
        open_checkpoint(tmp_path / "hf"),
        precision="bf16",
        target="onnxruntime-cuda",
        contract=contract_of(case),
    ).build(rotary_positions=512, version="0")
    ir.save(model, tmp_path / "encoder.onnx", external_data="encoder.onnx.data")
    with pytest.raises((NoKernel, Fail, InvalidGraph)):
        LayeredGraph(ir.load(tmp_path / "encoder.onnx"), tmp_path)


@pytest.mark.parametrize("precision", ["int8-weights", "int4"])
def test_weights_for_tensorrt_are_taken_in_floats(tmp_path, precision):
    """Left to ONNX Runtime they are multiplied as codes, by inputs that it rounds."""
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    calibration = None
    if precision == "int4":
        calibration = calibrate_model(
            open_checkpoint(tmp_path / "hf"),
            batches()[2],
            precision=precision,
            target="tensorrt",
            contract=contract_of(case),
        )
    model = model_graph(
        open_checkpoint(tmp_path / "hf"),
        precision=precision,
        target="tensorrt",
        contract=contract_of(case),
        calibration=calibration,
    ).build(rotary_positions=512, version="0")
    graph = tmp_path / "encoder.onnx"
    ir.save(model, graph, external_data="encoder.onnx.data")
    layered = open_within_memory(graph, tmp_path, memory_bytes=10**18, target="tensorrt")
    assert isinstance(layered, LayeredGraph)
    whole = open_within_memory(graph, tmp_path, memory_bytes=0, target="tensorrt")
    found, expected = (np.concatenate(encode_batches(e, batches())) for e in (layered, whole))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert layered._config == {"session.disable_quant_qdq": "1"}


def test_a_file_of_weights_with_a_second_name_is_read(tmp_path):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    graph = write_packed_graph(tmp_path, "fp32", contract_of(case), rows=[])
    expected = np.concatenate(encode_batches(open_graph(graph), batches()))
    (tmp_path / "backup").hardlink_to(tmp_path / "encoder.onnx.data")
    layered = open_within_memory(graph, tmp_path, memory_bytes=10**18)
    found = np.concatenate(layered.encode_batches(batches()))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_no_two_layers_are_in_memory_at_once(tmp_path, monkeypatch):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    graph = write_packed_graph(tmp_path, "fp32", contract_of(case), rows=[])
    layered = LayeredGraph(ir.load(graph), tmp_path)
    open_session, sessions, alive = layered._sessions.open_session, [], []

    def noting(path, **options):
        alive.append(sum(session() is not None for session in sessions))
        session = open_session(path, **options)
        sessions.append(weakref.ref(session))
        return session

    monkeypatch.setattr(layered._sessions, "open_session", noting)
    layered.encode_batches(batches())
    assert alive == [0] * layers_of(tmp_path / "hf")


def test_memory_to_run_counts_what_onnx_runtime_makes_of_weights(tmp_path):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    options = {"contract": contract_of(case), "precision": "fp16"}
    model = model_graph(open_checkpoint(tmp_path / "hf"), **options).build(
        rotary_positions=512, version="0"
    )
    weights = [v.const_value for v in model.graph.initializers.values()]
    assert weight_bytes(model) == sum(weight.nbytes for weight in weights)
    assert memory_to_run(model, target="onnxruntime") == 3 * weight_bytes(model)
    in_floats = 8 * sum(weight.size for weight in weights) + 2**30
    for target in ("tensorrt", "tensorrt-rtx"):
        assert memory_to_run(model, target=target) == in_floats > 3 * weight_bytes(model)
    graph = tmp_path / "encoder.onnx"
    ir.save(model, graph, external_data="encoder.onnx.data")
    assert memory_to_run(ir.load(graph), target="tensorrt") == in_floats


def test_a_session_holds_one_layer(tmp_path, monkeypatch):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    graph = write_packed_graph(tmp_path, "fp32", contract_of(case), rows=[])
    model = ir.load(graph)
    layered = LayeredGraph(model, tmp_path)
    opened, sizes = layered._sessions.open_session, []

    def noting(path, **options):
        sizes.append(path.with_name("layer.data").stat().st_size)
        return opened(path, **options)

    monkeypatch.setattr(layered._sessions, "open_session", noting)
    layered.encode_batches(batches())
    slices = slice_by_layers(model.graph)
    assert len(sizes) == len(slices) == layers_of(tmp_path / "hf") > 1
    whole = graph.with_name("encoder.onnx.data").stat().st_size
    tensors = model.graph.initializers
    every_layers = sum(tensors[f"rotary.{which}"].const_value.nbytes for which in ("cos", "sin"))
    repeated = every_layers * (len(slices) - 1)
    assert sum(sizes) == whole + repeated, "any other weight is in one layer, and none is left out"
    assert max(sizes) < 0.9 * whole
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("lasttoken-layer")]


def test_progress_comes_to_the_number_of_rows(tmp_path):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    graph = write_packed_graph(tmp_path, "fp32", contract_of(case), rows=[])
    told = []
    LayeredGraph(ir.load(graph), tmp_path).encode_batches(batches(), told.append)
    assert sum(told) == sum(map(len, LENGTHS))
    assert len(told) == layers_of(tmp_path / "hf")


def test_too_little_memory_for_a_layer_is_told(tmp_path, monkeypatch):
    case = CASES["qwen2"]
    build(tmp_path / "hf", case)
    graph = write_packed_graph(tmp_path, "fp32", contract_of(case), rows=[])
    layered = LayeredGraph(ir.load(graph), tmp_path)
    tokens, size = sum(map(sum, LENGTHS)), open_checkpoint(tmp_path / "hf").config.hidden_size
    most = max(layer.weight_elements for layer in slice_by_layers(ir.load(graph).graph))
    held = tokens + max(map(sum, LENGTHS))
    needed = 8 * most + 4 * held * size + layered_graph._BATCH_BYTES
    monkeypatch.setattr(layered_graph, "available_memory_bytes", lambda: needed)
    layered.encode_batches(batches())
    monkeypatch.setattr(layered_graph, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(NotEnoughMemory, match=rf"hidden states of {tokens} tokens"):
        layered.encode_batches(batches())
