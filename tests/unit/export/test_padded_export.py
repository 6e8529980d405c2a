"""The parts of the padded export that need no optimum."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from padded_engine import PaddedEngine

from lasttoken_export import cli
from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import TransformersFolder, open_model
from lasttoken_export.errors import (
    InvalidCheckpoint,
    InvalidOption,
    ModelNotFound,
    SourceUnavailable,
    UnsupportedArchitecture,
)
from lasttoken_export.exporter import ExportOptions
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.padded import environment, exporter
from lasttoken_export.padded.environment import optimum_python
from lasttoken_export.padded.exporter import pooled_vector
from lasttoken_export.padded.pooling_head import graft_pooling_head
from lasttoken_export.padded.transformers_folder import AnyConfig
from unit.export.checkpoints import CONFIG, write_folder
from unit.export.test_export import make_entry

MPNET = {
    "architectures": ["MPNetModel"], "model_type": "mpnet", "hidden_size": 64,
    "num_hidden_layers": 2, "vocab_size": 259, "max_position_embeddings": 514, "pad_token_id": 1,
}  # fmt: skip
LENGTHS = np.array([2, 5, 3], np.int32)
IDS = np.arange(3, 13, dtype=np.int32)


def exported_graph(*more_inputs):
    """A stand-in for optimum's graph: hidden states ``[B, S, 2]`` of token id and the input."""
    graph = GraphBuilder("exported")
    ids = graph.input("input_ids", ir.DataType.INT64, ["B", "S"])
    mask = graph.input("attention_mask", ir.DataType.INT64, ["B", "S"])
    second = mask
    for name in more_inputs:
        second = graph.input(name, ir.DataType.INT64, ["B", "S"])
    both = [
        graph.op("Unsqueeze", [value, graph.constant(np.asarray([2], np.int64))], f"column_{name}")
        for name, value in (("ids", ids), ("second", second))
    ]
    joined = graph.op("Concat", both, "joined", {"axis": 2})
    # Behind a row's end stands infinity, which must touch nothing.
    bare = graph.op("Cast", [joined], "bare", {"to": ir.DataType.FLOAT})
    column = graph.op("Unsqueeze", [mask, graph.constant(np.asarray([2], np.int64))], "mask_column")
    is_token = graph.op("Cast", [column], "is_token", {"to": ir.DataType.BOOL})
    infinite = graph.constant(np.asarray(np.inf, np.float32))
    hidden = graph.op("Where", [is_token, bare, infinite], "last_hidden_state")
    hidden.shape, hidden.dtype = ir.Shape(["B", "S", 2]), ir.DataType.FLOAT
    return graph.model([hidden], producer="test", version="0")


def vectors_of(model, contract, folder):
    graft_pooling_head(model, contract, dimensions=2)
    ir.save(model, folder / "encoder.onnx")
    engine = PaddedEngine(folder / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1)
    return engine.encode(IDS, LENGTHS)


@pytest.mark.parametrize("pooling", ["last_token", "cls", "mean"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_head_pools_each_rows_own_tokens(pooling, layer_norm, tmp_path):
    contract = EmbeddingContract(pooling=pooling, layer_norm=layer_norm)
    vectors = vectors_of(exported_graph(), contract, tmp_path)
    rows = np.split(IDS, np.cumsum(LENGTHS)[:-1])
    states = [np.stack([row, np.ones_like(row)], axis=1).astype(np.float32) for row in rows]
    expected = [pooled_vector(state, contract) for state in states]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_positions_are_counted_and_token_types_are_zero(tmp_path):
    contract = EmbeddingContract(pooling="last_token")
    first = vectors_of(exported_graph("position_ids"), contract, tmp_path)
    np.testing.assert_allclose(first[:, 1] / first[:, 0], [1 / 4, 4 / 9, 2 / 12], rtol=1e-5)
    second = vectors_of(exported_graph("token_type_ids"), contract, tmp_path)
    np.testing.assert_array_equal(second, [[1, 0]] * 3)


def test_an_unknown_input_or_output_is_refused():
    contract = EmbeddingContract()
    with pytest.raises(UnsupportedArchitecture, match="'pixel_values'; only input_ids"):
        graft_pooling_head(exported_graph("pixel_values"), contract, dimensions=2)
    model = exported_graph()
    model.graph.outputs[0].name = "pooled"
    with pytest.raises(UnsupportedArchitecture, match=r"outputs \['pooled'\]"):
        graft_pooling_head(model, contract, dimensions=2)


def test_the_reference_pools_as_the_contract_says():
    states = np.array([[3, 4], [0, 1], [6, 7]], np.float32)
    for pooling, expected in (("cls", [0.6, 0.8]), ("mean", np.array([3, 4]) / 5)):
        contract = EmbeddingContract(pooling=pooling)
        np.testing.assert_allclose(pooled_vector(states, contract), expected)
    contract = EmbeddingContract(pooling="last_token", layer_norm=True)
    np.testing.assert_allclose(pooled_vector(states, contract), [-(0.5**0.5), 0.5**0.5], rtol=1e-6)


def test_positions_that_count_from_the_padding_leave_rows_unused():
    config = AnyConfig.from_hugging_face(MPNET)
    assert (config.max_positions, config.stated_attention) == (512, None)
    bert_like = {**MPNET, "model_type": "new", "is_causal": False}
    config = AnyConfig.from_hugging_face(bert_like)
    assert (config.max_positions, config.stated_attention) == (514, "bidirectional")


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_configuration_that_says_too_little_is_refused(name):
    for value in (None, 0, "many"):
        with pytest.raises(InvalidCheckpoint):
            AnyConfig.from_hugging_face({**MPNET, name: value})


@pytest.fixture
def mpnet_folder(tmp_path):
    folder = tmp_path / "mpnet"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MPNET))
    return folder


def test_the_form_of_the_graph_is_chosen_by_the_architecture(mpnet_folder, tmp_path):
    packed = write_folder(tmp_path / "mistral")
    assert isinstance(open_model(mpnet_folder), TransformersFolder)
    assert not isinstance(open_model(packed), TransformersFolder)
    assert isinstance(open_model(packed, graph="padded"), TransformersFolder)
    with pytest.raises(UnsupportedArchitecture, match="--graph padded exports any other"):
        open_model(mpnet_folder, graph="packed")


def test_a_gguf_file_has_no_padded_graph(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidOption, match="leave --graph away"):
        open_model(tmp_path / "a.gguf", graph="padded")


def test_a_decoder_is_not_exported_in_a_direction_that_its_authors_do_not_mean(tmp_path):
    folder = TransformersFolder(write_folder(tmp_path / "a"))
    exporter._check_attention(folder, entry("sfr-embedding-mistral"), "causal")
    with pytest.raises(UnsupportedArchitecture, match="attends causal in transformers"):
        exporter._check_attention(folder, entry("gte-qwen2-7b-instruct"), "causal")
    config = {**CONFIG, "is_causal": False}
    folder = TransformersFolder(write_folder(tmp_path / "b", config=config))
    with pytest.raises(UnsupportedArchitecture, match="meant to attend bidirectional"):
        exporter._check_attention(folder, make_entry(), "causal")
    exporter._check_attention(folder, make_entry(), "bidirectional")


def test_without_a_network_the_refusal_says_what_to_do(tmp_path, monkeypatch, mpnet_folder, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="try again with a network, once is enough"):
        optimum_python(tmp_path / "cache")
    # Nothing half made is left to be used.
    with pytest.raises(SourceUnavailable):
        optimum_python(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("optimum-*[0-9a-f]"))


def test_an_interrupted_installation_is_made_again(tmp_path, monkeypatch):
    made = []

    def install(folder):
        made.append(folder)
        (folder / "bin").mkdir(parents=True)
        if len(made) == 1:
            raise KeyboardInterrupt
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environment, "_install", install)
    with pytest.raises(KeyboardInterrupt):
        optimum_python(tmp_path)
    python = optimum_python(tmp_path)
    assert python.exists()
    assert optimum_python(tmp_path) == python
    assert len(made) == 2


def test_an_option_that_a_padded_graph_has_not_is_refused(mpnet_folder, tmp_path, capsys):
    output = str(tmp_path / "out")
    arguments = ["--like", "all-minilm-l6-v2", "--precision", "fp16", "--output", output]
    assert cli.main([str(mpnet_folder), *arguments]) == 2
    words = capsys.readouterr().err
    assert "MPNetModel: optimum writes a padded graph (no packed graph is known of it)" in words
    assert "a padded graph is written in fp32 only" in words
    assert cli.main([str(mpnet_folder), *arguments[2:]]) in (1, 2)
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MPNET))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelNotFound, match="pickled weights"):
        exporter.export_padded_model(
            TransformersFolder(tmp_path),
            make_entry(),
            ExportOptions(output=tmp_path / "out"),
        )
