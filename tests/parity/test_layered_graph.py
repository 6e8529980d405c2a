"""Graphs that are run a layer at a time give the vectors of the whole graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import NotEnoughMemory
from lasttoken_export.graph.layer_slices import slice_by_layers
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality import layered_graph
from lasttoken_export.quality.layered_graph import LayeredGraph
from lasttoken_export.quality.token_rows import encode_batches, open_graph
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
    needed = 8 * (most + tokens * size)
    monkeypatch.setattr(layered_graph, "available_memory_bytes", lambda: needed)
    layered.encode_batches(batches())
    monkeypatch.setattr(layered_graph, "available_memory_bytes", lambda: needed - 1)
    with pytest.raises(NotEnoughMemory, match=rf"hidden states of {tokens} tokens"):
        layered.encode_batches(batches())
