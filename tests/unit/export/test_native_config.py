"""The native flavour: its configuration in Triton's own protobuf, and the batches it would form."""

import json

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tokenizer_settings import parse_settings
from tritonclient.grpc import model_config_pb2

from lasttoken_export import cli
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.commands import export as export_command
from lasttoken_export.errors import InvalidOption
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_config import parse_config
from lasttoken_export.native_config import (
    NativeEncoder,
    native_encoder_config,
    native_ensemble_config,
)
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quality.token_rows import encode_rows, open_graph
from lasttoken_export.quantisation.calibration import Calibration
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG, make_entry
from unit.tokenizer.small import byte_level_tokenizer

KINDS = model_config_pb2.BatchInput.Kind
LENGTH = 32


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("native")
    folder = write_folder(root / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    options = ExportOptions(
        output=root / "repository", encoder="native", native_batch_size=6, intra_op_threads=1
    )
    export_model(open_checkpoint(folder), make_entry(), options)
    return root / "repository"


@pytest.fixture(scope="module")
def encoder_config(repository):
    return parse_config((repository / "small_encoder/config.pbtxt").read_text())


@pytest.fixture(scope="module")
def session(repository):
    return onnxruntime.InferenceSession(repository / "small_encoder/1/encoder.onnx")


def native_batch(config, requests):
    """The graph's inputs as Triton's backends form them from requests ``[rows, length]``.

    Source: backend_input_collector.cc of triton-inference-server/backend, by the kinds that the
    configuration names.
    """
    [ragged] = config.input
    assert ragged.allow_ragged_batch
    feeds = {ragged.name: np.concatenate([request.ravel() for request in requests])}
    for batch_input in config.batch_input:
        assert batch_input.source_input == [ragged.name]
        [target] = batch_input.target_name
        if batch_input.kind == KINDS.BATCH_ITEM_SHAPE_FLATTEN:
            # A request [n, L] has n items of shape [L].
            value = [shape for request in requests for _ in request for shape in request.shape[1:]]
            feeds[target] = np.array(value, np.int32)
        else:
            assert batch_input.kind == KINDS.BATCH_MAX_ELEMENT_COUNT_AS_SHAPE
            feeds[target] = np.full(max(request.size for request in requests), 77, np.int32)
    return feeds


def run(session, config, requests):
    [vectors] = session.run([config.output[0].name], native_batch(config, requests))
    return vectors


def test_the_configuration_fits_the_graph(repository, encoder_config, session):
    graph = {value.name: value for value in session.get_inputs()}
    ours = {value.name for value in encoder_config.input}
    ours |= {name for value in encoder_config.batch_input for name in value.target_name}
    assert ours == graph.keys()
    for value in (*encoder_config.input, *encoder_config.batch_input):
        assert value.data_type == model_config_pb2.TYPE_INT32
    assert {value.type for value in graph.values()} == {"tensor(int32)"}
    # A ragged input of one dimension: the graph's has no batch dimension of its own.
    assert [len(value.shape) for value in graph.values()] == [1, 1, 1]
    assert list(encoder_config.input[0].dims) == [-1]
    [output] = session.get_outputs()
    assert (encoder_config.output[0].name, list(encoder_config.output[0].dims)) == (
        output.name,
        output.shape[1:],
    )
    assert encoder_config.backend == "onnxruntime"
    assert encoder_config.parameters["intra_op_thread_count"].string_value == "1"
    version = repository / "small_encoder/1"
    assert (version / encoder_config.default_model_filename).is_file()
    assert sorted(path.name for path in version.iterdir()) == ["encoder.onnx", "encoder.onnx.data"]


def test_the_ensemble_points_at_it(repository, encoder_config):
    ensemble = parse_config((repository / "small/config.pbtxt").read_text())
    tokenizer, encoder = ensemble.ensemble_scheduling.step
    assert encoder.model_name == encoder_config.name == "small_encoder"
    assert set(encoder.input_map) == {value.name for value in encoder_config.input}
    assert set(encoder.output_map) == {value.name for value in encoder_config.output}
    assert encoder.input_map["input_ids"] == tokenizer.output_map["INPUT_IDS"]
    assert encoder.output_map["embedding"] == "EMBEDDING"
    assert ensemble.max_batch_size == encoder_config.max_batch_size == 6
    card = json.loads((repository / "small/1/card.json").read_text())
    assert json.loads(ensemble.parameters["card"].string_value) == card


def test_the_graph_takes_the_largest_batch_that_can_be_formed(session, encoder_config):
    random = np.random.default_rng(0)
    longest = [
        random.integers(0, 259, (1, LENGTH), dtype=np.int32)
        for _ in range(encoder_config.max_batch_size)
    ]
    vectors = run(session, encoder_config, longest)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with pytest.raises(Exception, match="cos_cache"):  # one row more, which Triton never adds
        run(session, encoder_config, [*longest, longest[0]])


def test_concatenated_requests_give_each_rows_own_vector(repository, session, encoder_config):
    random = np.random.default_rng(1)
    engine = open_graph(repository / "small_encoder/1/encoder.onnx")
    shapes = [(1, 5), (1, 31), (1, 1), (1, 17), (2, 9)]  # the last: two rows of one length
    requests = [random.integers(0, 259, shape, dtype=np.int32) for shape in shapes]
    vectors = run(session, encoder_config, requests)
    rows = [row for request in requests for row in request]
    alone = np.concatenate([encode_rows(engine, [row]) for row in rows])
    np.testing.assert_array_equal(vectors, alone)


def test_rows_padded_to_one_length_would_be_wrong_so_they_are_refused(
    repository, session, encoder_config
):
    random = np.random.default_rng(2)
    engine = open_graph(repository / "small_encoder/1/encoder.onnx")
    request = random.integers(1, 259, (2, 9), dtype=np.int32)
    request[1, 4:] = 0  # padding, as the tokenizer would write it
    vectors = run(session, encoder_config, [request])
    np.testing.assert_array_equal(vectors[:1], encode_rows(engine, [request[0]]))
    assert vectors[1] @ encode_rows(engine, [request[1, :4]])[0] < 0.99
    # Hence one text a request, which the tokenizer sees to.
    config = parse_config((repository / "small_tokenizer/config.pbtxt").read_text())
    limits = parse_settings(
        {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    )
    assert limits.max_texts_per_request == 1


@pytest.mark.parametrize(
    ("runtime", "backend", "kind"),
    [
        ("onnxruntime", "onnxruntime", model_config_pb2.ModelInstanceGroup.KIND_CPU),
        ("onnxruntime-cuda", "onnxruntime", model_config_pb2.ModelInstanceGroup.KIND_GPU),
        ("tensorrt", "tensorrt", model_config_pb2.ModelInstanceGroup.KIND_GPU),
    ],
)
def test_each_runtime_has_its_backend(runtime, backend, kind):
    encoder = NativeEncoder(runtime=runtime, file="encoder.plan", max_batch_size=4, max_length=512)
    config = parse_config(native_encoder_config(encoder, model="m", dimensions=8))
    assert (config.backend, config.instance_group[0].kind) == (backend, kind)
    assert (config.default_model_filename, config.max_batch_size) == ("encoder.plan", 4)
    assert not config.parameters
    assert encoder.max_batch_tokens == 2048


@pytest.mark.parametrize("wide", [False, True])
def test_its_int8_is_exact_on_any_processor_without_an_option(wide, tmp_path, monkeypatch):
    """Triton's backend sets none; the weights are unsigned, the vectors those of signed ones."""
    if wide:  # two products of one weight
        monkeypatch.setattr(Calibration, "fixed_inputs", lambda self, linear: None)
    monkeypatch.setattr(Calibration, "is_wide", lambda self, linear: wide)
    folder = write_folder(tmp_path / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    checkpoint = open_checkpoint(folder)
    for encoder in ("python", "native"):
        options = ExportOptions(
            output=tmp_path / encoder,
            encoder=encoder,
            precision="int8",
            quality=QualityOptions(accepted={"mean_cosine": None, "ndcg_loss": None}),
        )
        export_model(checkpoint, make_entry(), options)
    signed, unsigned = (
        tmp_path / encoder / "small_encoder/1/encoder.onnx" for encoder in ("python", "native")
    )
    weights = [
        node.inputs[1].const_value.dtype
        for node in ir.load(unsigned).graph
        if node.op_type == "MatMulIntegerToFloat"
    ]
    assert weights
    assert set(weights) == {ir.DataType.UINT8}
    plain = onnxruntime.InferenceSession(unsigned)
    random = np.random.default_rng(3)
    rows = [random.integers(0, 259, size, dtype=np.int32) for size in (1, 9, 30)]
    lengths = np.array([len(row) for row in rows], np.int32)
    feeds = {"input_ids": np.concatenate(rows), "row_lengths": lengths}
    [vectors] = plain.run(None, feeds | {"slots": np.zeros(30, np.int32)})
    np.testing.assert_array_equal(vectors, encode_rows(open_graph(signed), rows))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("python", "serve it: lasttoken serve {}\n"),
        ("native", "serve it: tritonserver --model-repository {}, of an installation with "
                   "Triton's onnxruntime backend (lasttoken serve has Python's only)\n"),
    ],
)  # fmt: skip
def test_the_command_says_what_can_serve_it(tmp_path, encoder, said, capsys, monkeypatch):
    folder = write_folder(tmp_path / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    monkeypatch.setattr(export_command, "find_entry", lambda *_: make_entry())
    output = str(tmp_path / "repository")
    assert cli.main([str(folder), "--encoder", encoder, "--output", output]) == 0
    assert capsys.readouterr().out.endswith(said.format(output))


def test_what_triton_has_no_backend_for_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match="no backend of its own for tensorrt-rtx"):
        NativeEncoder(runtime="tensorrt-rtx", file="x", max_batch_size=4, max_length=512)
    with pytest.raises(InvalidOption, match="batch size is 0"):
        NativeEncoder(runtime="tensorrt", file="x", max_batch_size=0, max_length=512)
    with pytest.raises(InvalidOption, match="encoder is 'cpp'; choose one of python, native"):
        ExportOptions(output=tmp_path, encoder="cpp")


def test_only_an_ensemble_of_ours_is_rewritten():
    encoder = NativeEncoder(runtime="tensorrt", file="x", max_batch_size=4, max_length=512)
    with pytest.raises(AssertionError):
        native_ensemble_config('name: "m"\nmax_batch_size: 3\n', encoder)
