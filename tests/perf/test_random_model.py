"""Models of SFR-Embedding-Mistral's shape with random weights: the files that peers load."""

import json
from types import SimpleNamespace

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer

from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import InvalidOption
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_perf.cli import main
from lasttoken_perf.commands import peers as peers_command
from lasttoken_perf.errors import UnknownWorkload
from lasttoken_perf.gguf_writing import write_gguf
from lasttoken_perf.peers import compare, weights
from lasttoken_perf.peers.compare import CompareOptions, run_compare
from lasttoken_perf.peers.weights import open_weights
from lasttoken_perf.random_checkpoint import SFR_CONFIG
from lasttoken_perf.random_model import SENTENCEPIECE, config_of_layers, write_random_model
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG

SMALL = {
    **SFR_CONFIG, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "model"
    return write_random_model(folder, SMALL, cache_folder=None, say=lambda _: None)


def test_the_gguf_file_holds_the_same_weights_and_vocabulary(model, tmp_path):
    write_gguf(model, model.folder / SENTENCEPIECE, tmp_path / "model.gguf")
    read = open_checkpoint(tmp_path / "model.gguf")
    assert read.names() == model.names()
    for name in model.names():
        np.testing.assert_array_equal(read.read(name), model.read(name), err_msg=name)
    for setting in ("num_heads", "num_kv_heads", "head_dim", "rope_theta", "rms_norm_eps"):
        assert getattr(read.config, setting) == getattr(model.config, setting)
    own = json.loads(model.tokenizer_json())
    assert json.loads(read.tokenizer_json())["model"] == own["model"]


def test_the_gguf_file_asks_for_bos_and_eos_and_keeps_norms_in_floats(model, tmp_path):
    write_gguf(model, model.folder / SENTENCEPIECE, tmp_path / "model.gguf")
    file = gguf.GGUFReader(tmp_path / "model.gguf")
    fields = {name: field.contents() for name, field in file.fields.items()}
    for special, token in (("bos", 1), ("eos", 2)):
        assert fields[f"tokenizer.ggml.add_{special}_token"] is True
        assert fields[f"tokenizer.ggml.{special}_token_id"] == token
    types = {tensor.name: tensor.tensor_type for tensor in file.tensors}
    for name, kind in types.items():
        expected = gguf.GGMLQuantizationType.F32 if "norm" in name else "F16"
        assert kind.name == getattr(expected, "name", expected), name


def test_torch_is_asked_for_the_weights_own_type_and_told_of_the_special_tokens(model):
    assert json.loads((model.folder / "config.json").read_text())["torch_dtype"] == "float16"
    about = json.loads((model.folder / "tokenizer_config.json").read_text())
    assert (about["bos_token"], about["eos_token"], about["pad_token"]) == ("<s>", "</s>", "</s>")


def test_a_peer_that_goes_by_the_tokenizers_file_begins_with_bos_and_ends_with_eos(model):
    tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
    ids = tokenizer.encode("A text.").ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert ids[1:-1] == tokenizer.encode("A text.", add_special_tokens=False).ids


@pytest.mark.parametrize("layers", [0, 33])
def test_layers_that_the_model_does_not_have_are_refused(layers):
    with pytest.raises(UnknownWorkload, match=f"--random-layers is {layers}; the model has 32"):
        config_of_layers(layers, option="--random-layers")


def test_random_layers_of_another_model_are_refused():
    with pytest.raises(InvalidOption, match="add --model sfr-embedding-mistral"):
        run_compare(CompareOptions(random_layers=2), say=lambda _: None)


def test_the_option_reaches_the_comparison(monkeypatch):
    asked = []

    def run(options, **_):
        asked.append((options.model, options.random_layers))
        return {"summary": [], "ratios": {}, "unavailable": {}}

    monkeypatch.setattr(peers_command, "run_compare", run)
    words = ["peers", "--model", "sfr-embedding-mistral", "--random-layers", "2"]
    assert main(words) == 0
    assert asked == [("sfr-embedding-mistral", 2)]


@pytest.mark.parametrize(
    ("layers", "whole", "end"),
    [
        (1, False, "with one layer no ratio to a peer says anything of the model."),
        (8, False, "divided by up to 1.11."),
        (32, False, "divided by up to 1.00."),
        (8, True, "Random weights of 8 of the model's 32 layers."),
    ],
)
def test_the_table_says_what_few_layers_make_of_the_ratios(layers, whole, end):
    model = {"random_layers": layers, "computes_last_layer_whole": whole}
    result = {"summary": [], "ratios": {}, "unavailable": {}, "model": model}
    assert list(peers_command.peers_table(result))[-1].endswith(end)


@pytest.mark.parametrize(("precision", "whole"), [("fp32", False), ("int8-weights", True)])
def test_whether_the_last_layer_is_computed_whole_is_read_from_the_graph(
    tmp_path, precision, whole
):
    (tmp_path / "1").mkdir()
    folder = write_folder(tmp_path / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    graph = model_graph(
        open_checkpoint(folder), precision=precision, contract=EmbeddingContract()
    ).build(rotary_positions=64, version="0")
    ir.save(graph, tmp_path / "1/encoder.onnx", external_data="encoder.onnx.data")
    assert compare._computes_last_layer_whole(tmp_path) is whole


def test_the_table_of_a_whole_model_says_nothing_of_layers():
    result = {"summary": [], "ratios": {}, "unavailable": {}, "model": {"random_layers": None}}
    assert not any("layers" in line for line in peers_command.peers_table(result))


def test_a_result_is_made_when_the_work_folder_is_gone(monkeypatch):
    """Of everything that it tells of the exported model."""
    folders = []

    def export(checkpoint, entry, precision, repository, say):
        folders.append(repository.parent)
        version = repository / "sfr_encoder" / "1"
        version.mkdir(parents=True)
        graph = model_graph(
            open_checkpoint(
                write_folder(repository / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
            ),
            precision="fp32",
            contract=EmbeddingContract(),
        ).build(rotary_positions=64, version="0")
        ir.save(graph, version / "encoder.onnx", external_data="encoder.onnx.data")
        return "sfr"

    checkpoint = SimpleNamespace(config=SimpleNamespace(hidden_size=32))
    monkeypatch.setattr(compare, "open_weights", lambda *_, **__: (checkpoint, None))
    monkeypatch.setattr(compare, "_export", export)
    monkeypatch.setattr(compare, "tokenize", lambda _, texts: ([[1]] * len(texts), texts))
    monkeypatch.setattr(compare, "write_peer_folder", lambda *_, **__: None)
    for name in ("_bare", "_served", "measure"):
        monkeypatch.setattr(compare, name, lambda *_, **__: None)
    monkeypatch.setattr(compare, "agree", lambda _, a, say: a.served.update({compare.SERVED: 1.0}))
    options = CompareOptions(
        model="sfr-embedding-mistral", random_layers=2, peers=(), texts=3, queries=2
    )
    result = run_compare(options, say=lambda _: None)
    assert not folders[0].exists()
    assert result["model"]["random_layers"] == 2
    assert result["model"]["computes_last_layer_whole"] is False


@pytest.mark.parametrize("wanted", [True, False])
def test_a_gguf_file_is_written_where_it_is_wanted(monkeypatch, tmp_path, wanted):
    monkeypatch.setattr(weights, "config_of_layers", lambda layers, option: SMALL)
    checkpoint, file = open_weights(
        catalogue_entry("sfr-embedding-mistral"),
        tmp_path,
        random_layers=2,
        for_llama_cpp=wanted,
        cache_folder=None,
        say=lambda _: None,
    )
    assert checkpoint.config.num_layers == 2
    assert (file is not None and file.is_file()) is wanted


@pytest.mark.parametrize(
    ("peers", "wanted"),
    [(["sentence-transformers", "llama.cpp server q8_0"], True), (["Infinity server"], False)],
)
def test_llama_cpp_alone_wants_a_gguf_file(monkeypatch, peers, wanted):
    asked = []

    def opened(entry, folder, **options):
        asked.append((entry.name, options["random_layers"], options["for_llama_cpp"]))
        raise InvalidOption("far enough")

    monkeypatch.setattr(compare, "open_weights", opened)
    options = CompareOptions(model="sfr-embedding-mistral", random_layers=3, peers=peers)
    with pytest.raises(InvalidOption, match="far enough"):
        run_compare(options, say=lambda _: None)
    assert asked == [("sfr-embedding-mistral", 3, wanted)]
