"""Real plans, built by TensorRT-RTX for GPUs that are not in this machine."""

import dataclasses
import json
import re
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from lasttoken_export import cli
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import (
    BuildFailed,
    GraphRefused,
    InvalidOption,
    UnsupportedDevice,
    VerificationFailed,
)
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_config import parse_config
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.export_check import QualityOptions
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import check_files, open_artefact, verify_artefact
from lasttoken_export.quantisation.calibrate import calibrate_model
from lasttoken_export.quantisation.calibrate_entry import CalibrationOptions
from lasttoken_export.tensorrt import plan_builder
from lasttoken_export.tensorrt.callbacks import make_logger
from lasttoken_export.tensorrt.library import load_library
from lasttoken_export.tensorrt.network import parse_network
from lasttoken_export.tensorrt.plan_builder import PlanOptions, build_plan
from lasttoken_export.tensorrt.plan_contents import read_plan
from lasttoken_export.tensorrt.plan_step import PlanChoices
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import TargetDevice
from lasttoken_perf.plain_calibration import PlainCalibration
from lasttoken_perf.random_checkpoint import SFR_CONFIG, write_random_checkpoint
from unit.export.checkpoints import CONFIG, tensors, write_folder
from unit.export.test_export import make_entry
from unit.tokenizer.small import byte_level_tokenizer

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed: make integrations, on x86-64 Linux"
)

SMALL = {
    **CONFIG,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "vocab_size": 259,
}
PROFILE = PlanProfile(max_batch_tokens=512, max_rows=64, max_length=128, usual_batch_tokens=512)


@pytest.fixture(scope="module")
def library():
    return load_library("tensorrt-rtx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans") / "hf"
    weights = {name: array * np.float32(0.05) for name, array in tensors(SMALL).items()}
    write_folder(folder, weights, config=SMALL)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


def write_graph(checkpoint, path, precision, *, num_layers=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = model_graph(
        checkpoint,
        precision=precision,
        target="tensorrt-rtx",
        contract=EmbeddingContract(),
        num_layers=num_layers,
        calibration=PlainCalibration(checkpoint.config, precision)
        if PRECISIONS[precision].is_calibrated
        else None,
    ).build(rotary_positions=PROFILE.max_batch_tokens, version="test")
    ir.save(graph, path, external_data=f"{path.name}.data")
    return path


@pytest.fixture(scope="module")
def graphs(folder, tmp_path_factory):
    """The graph of the small checkpoint in a precision, written once."""
    written = {}

    def graph(precision):
        if precision not in written:
            path = tmp_path_factory.mktemp(precision) / "encoder.onnx"
            written[precision] = write_graph(open_checkpoint(folder), path, precision)
        return written[precision]

    return graph


def options(library, precision, *, capability=89, **changes):
    return PlanOptions(
        library=library,
        target=TargetDevice(compute_capability=capability, name=None),
        precision=precision,
        profile=PROFILE,
        **changes,
    )


def matrix_elements(config, layers):
    """Elements of the linear layers' weights."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv_size = config["num_key_value_heads"] * head_dim
    attention = hidden * (heads * head_dim + 2 * kv_size) + heads * head_dim * hidden
    return layers * (attention + 3 * hidden * config["intermediate_size"])


def test_an_export_holds_a_plan_in_place_of_the_graph(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    words = [
        str(folder), "--like", "smollm2-135m", "--precision", "fp16", "--name", "small",
        "--runtime", "tensorrt-rtx", "--compute-capability", "8.9", "--max-length", "64",
    ]  # fmt: skip
    monkeypatch.setattr(cli, "find_entry", lambda *_: small_entry())
    words += ["--quality-pairs", "0"]
    assert cli.main([*words, "--output", str(tmp_path / "first")]) == 0, capsys.readouterr().err
    encoder = tmp_path / "first/small_encoder"
    assert {"encoder.plan", "model.py"} <= {path.name for path in (encoder / "1").iterdir()}
    assert not list((encoder / "1").glob("*.onnx*"))
    parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
    assert parameters["runtime"].string_value == "tensorrt-rtx"
    card = json.loads((tmp_path / "first/small/1/card.json").read_text())
    plan = card["plan"]
    assert card["runtime"] == plan["library"] == "tensorrt-rtx"
    assert (plan["compute_capability"], plan["precision"], plan["gpu"]) == ("8.9", "fp16", None)
    assert plan["library_version"] == load_library("tensorrt-rtx").version
    assert plan["build_seconds"] > 0
    assert not plan["from_cache"]
    assert plan["plan_bytes"] == (encoder / "1/encoder.plan").stat().st_size
    bounds = {name: str(shape[2]) for name, shape in plan["profile"].items()}
    assert bounds == {
        "input_ids": parameters["max_batch_tokens"].string_value,
        "row_lengths": parameters["max_batch_rows"].string_value,
        "slots": parameters["max_length"].string_value,
    }
    assert "small_encoder/1/encoder.plan" in card["sha256"]

    again = [*words, "--output", str(tmp_path / "second"), "--keep-graph"]
    assert cli.main(again) == 0
    second = json.loads((tmp_path / "second/small/1/card.json").read_text())
    assert second["plan"]["from_cache"]
    assert second["sha256"] == card["sha256"]
    graph = tmp_path / "second/small_encoder/1/encoder.onnx"
    assert set(second["plan"]["graph_sha256"]) == {
        f"small_encoder/1/{name}" for name in ("encoder.onnx", "encoder.onnx.data")
    }
    artefact = open_artefact(tmp_path / "second/small")
    check_files(artefact)
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(
        VerificationFailed, match=r"encoder\.onnx is not the file that was exported"
    ):
        check_files(artefact)
    foreign = open_artefact(tmp_path / "first/small")
    foreign.graph.touch()
    with pytest.raises(VerificationFailed, match="export it again with --keep-graph"):
        check_files(foreign)


def small_entry():
    return dataclasses.replace(make_entry(), precisions=("fp32", "fp16", "bf16"))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weights", "fp8", "int4"])
def test_quality_and_batches_are_checked_before_a_plan_is_built(folder, tmp_path, precision):
    texts = tmp_path / "pairs.jsonl"
    pairs = [{"query": "x" * n, "document": "y" * (3 * n)} for n in range(1, 20)]
    texts.write_text("\n".join(map(json.dumps, pairs)))
    report = export_model(
        open_checkpoint(folder),
        small_entry(),
        ExportOptions(
            output=tmp_path / "repository",
            runtime="tensorrt-rtx",
            precision=precision,
            max_length=64,
            plan=PlanChoices(compute_capability="8.9", use_cache=False, keep_graph=True),
            quality=QualityOptions(
                retrieval_set=str(texts),
                pairs=19,
                # Random weights have no figures worth a gate; company must not matter to them.
                accepted={"minimum_cosine": None, "mean_cosine": None, "ndcg_loss": None},
                cache_folder=tmp_path / "cache",
            ),
            calibration=CalibrationOptions(folder=tmp_path / "calibration"),
        ),
    )
    assert (tmp_path / "repository/small_encoder/1/encoder.plan").exists()
    assert report.checks["bitwise_batch_invariant"]
    assert report.quality["status"] == "measured"
    assert report.quality["bitwise_batch_invariant"]
    assert report.quality["plan"].startswith("not measured")
    artefact = open_artefact(tmp_path / "repository/small")
    reference = open_checkpoint(folder), EmbeddingContract.of(small_entry())
    texts = open_set(str(texts))
    found = verify_artefact(artefact, texts, reference, accepted={}, cache_folder=tmp_path)
    unlike = {name for name in found if found[name] != report.quality[name]}
    assert unlike <= {"rows", "gate"}  # more rows in company, and what was accepted at export


def test_a_graph_that_the_cpu_cannot_run_is_exported_and_the_card_says_so(folder, tmp_path):
    choices = PlanChoices(compute_capability="8.9", use_cache=False, keep_graph=True)
    report = export_model(
        open_checkpoint(folder),
        small_entry(),
        ExportOptions(
            output=tmp_path, runtime="tensorrt-rtx", precision="bf16", max_length=64, plan=choices
        ),
    )
    assert "no kernel" in report.checks["not_run"] or "implementation" in report.checks["not_run"]
    assert (tmp_path / "small_encoder/1/encoder.plan").exists()
    assert report.quality["status"] == "not measured"
    artefact = open_artefact(tmp_path / "small")
    reference = open_checkpoint(folder), EmbeddingContract.of(small_entry())
    with pytest.raises(InvalidOption, match="small cannot be verified on this machine: ONNX Run"):
        verify_artefact(artefact, open_set("python", pairs=2), reference, accepted={})


def test_a_refused_target_leaves_no_repository(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "find_entry", lambda *_: small_entry())
    code = cli.main(
        [str(folder), "--runtime", "tensorrt-rtx", "--compute-capability", "9.0", "--precision",
         "fp16", "--output", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 1
    assert "UnsupportedDevice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_network_has_the_graphs_inputs_and_output(library, graphs):
    trt = library.module
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network, _parser = parse_network(trt, builder, logger, graphs("fp16"))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    assert [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in inputs] == [
        (name, trt.DataType.INT32, (-1,)) for name in ("input_ids", "row_lengths", "slots")
    ]
    assert network.num_outputs == 1
    output = network.get_output(0)
    assert (output.name, output.dtype) == ("embedding", trt.DataType.FLOAT)
    assert tuple(output.shape) == (-1, 256)
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    profile = PROFILE.to_tensorrt(builder)
    for name, bounds in PROFILE.shapes().items():
        assert [tuple(shape) for shape in profile.get_shape(name)] == [(n,) for n in bounds]


@pytest.mark.parametrize("capability", [80, 89, 120])
def test_half_precision_attention_is_fused(library, graphs, tmp_path, capability):
    progress = []
    report = build_plan(
        graphs("fp16"),
        tmp_path / "encoder.plan",
        options(library, "fp16", capability=capability),
        on_progress=lambda *step: progress.append(step),
    )
    contents = read_plan(tmp_path / "encoder.plan")
    assert contents.fused_attentions == SMALL["num_hidden_layers"]
    assert contents.constant_bytes["half"] >= 2 * matrix_elements(SMALL, 2)
    assert contents.constant_bytes.get("float", 0) < 1000
    assert report.plan_bytes == (tmp_path / "encoder.plan").stat().st_size
    assert report.seconds > 0
    assert progress
    assert all(0 < done <= steps for _, done, steps in progress)


def test_float32_is_built_of_separate_operators(library, graphs, tmp_path, monkeypatch):
    build_plan(graphs("fp32"), tmp_path / "encoder.plan", options(library, "fp32"))
    contents = read_plan(tmp_path / "encoder.plan")
    assert contents.fused_attentions == 0
    assert contents.constant_bytes["float"] >= 4 * matrix_elements(SMALL, 2)
    monkeypatch.setattr(plan_builder, "allow_unfused_attention", lambda *_: 0)
    with pytest.raises(BuildFailed, match="not supported by a dedicated kernel"):
        build_plan(graphs("fp32"), tmp_path / "failed.plan", options(library, "fp32"))
    assert not (tmp_path / "failed.plan").exists()


WEIGHT_BITS = {"fp16": 16, "bf16": 16, "int8": 8, "int8-weights": 8, "fp8": 8, "int4": 4}
WEIGHT_TYPES = {
    "fp16": "half", "bf16": "bf16", "int8": "int8", "int8-weights": "int8", "fp8": "fp8_e4m3",
    "int4": "int4",
}  # fmt: skip
OTHER_TYPES = {"half", "float", "bf16"}


def check_precision(contents, precision, config, layers):
    """What can be read of a plan: weights' types and sizes, the arithmetic, fused attention."""
    elements = matrix_elements(config, layers)
    stored = contents.constant_bytes[WEIGHT_TYPES[precision]]
    wanted = elements * WEIGHT_BITS[precision] // 8
    embeddings = 2 * config["vocab_size"] * config["hidden_size"]
    caches = 4 * PROFILE.max_batch_tokens * 128
    if precision in ("fp16", "bf16"):
        assert wanted <= stored <= wanted + embeddings + caches + 10**5
    else:
        assert stored == wanted
        # Scales: two bytes a block of 32 inputs in int4, fewer elsewhere.
        assert contents.constant_bytes["half"] < embeddings + caches + elements // 16 + 10**5
    assert set(contents.constant_bytes) <= {WEIGHT_TYPES[precision], *OTHER_TYPES}
    assert contents.fused_attentions == layers
    # W8A8 multiplies by the codes; weight-only precisions multiply by what they stand for.
    weight_only = precision in ("int8-weights", "int4")
    kind = "computed" if weight_only else WEIGHT_TYPES[precision]
    products = Counter({kind: 4 * layers})
    products["half"] += layers if precision == "int8" else 0  # rotations before down_proj
    assert contents.products == +products


@pytest.mark.parametrize("precision", list(WEIGHT_BITS))
def test_every_precision_builds_and_computes_in_it(library, graphs, tmp_path, precision):
    build_plan(graphs(precision), tmp_path / "plan", options(library, precision))
    check_precision(read_plan(tmp_path / "plan"), precision, SMALL, 2)


def test_calibrated_scales_build_too(library, folder, tmp_path):
    checkpoint = open_checkpoint(folder)
    random = np.random.default_rng(0)
    rows = [random.integers(0, 259, length, dtype=np.int32) for length in (3, 30, 60)]
    contract = EmbeddingContract()
    found = calibrate_model(
        checkpoint,
        rows,
        precision="int8",
        target="tensorrt",
        contract=contract,
        folder=tmp_path / "calibration",
    )
    graph = model_graph(
        checkpoint, precision="int8", target="tensorrt", contract=contract, calibration=found
    ).build(rotary_positions=512, version="test")
    ir.save(graph, tmp_path / "encoder.onnx", external_data="encoder.onnx.data")
    build_plan(tmp_path / "encoder.onnx", tmp_path / "plan", options(library, "int8"))
    contents = read_plan(tmp_path / "plan")
    assert contents.constant_bytes["int8"] > 0
    # Layers that a static scale would spoil stay in half precision.
    assert sum(contents.products.values()) == 8
    assert contents.products["int8"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8", "int4"])
def test_smollm2_builds(library, smollm2_checkpoint, tmp_path, precision):
    # Five of the thirty layers, which are alike: the test takes a sixth of the time.
    layers = 5
    graph = write_graph(smollm2_checkpoint, tmp_path / "encoder.onnx", precision, num_layers=layers)
    build_plan(graph, tmp_path / "plan", options(library, precision))
    config = {
        "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "intermediate_size": 1536, "vocab_size": 49152,
    }  # fmt: skip
    check_precision(read_plan(tmp_path / "plan"), precision, config, layers)


@pytest.fixture(scope="module")
def sfr_layers(tmp_path_factory):
    """Two layers of SFR-Embedding-Mistral's shape with random weights and a small vocabulary."""
    folder = tmp_path_factory.mktemp("sfr") / "hf"
    config = {**SFR_CONFIG, "num_hidden_layers": 2, "vocab_size": 512}
    write_random_checkpoint(folder, config, seed=1, say=lambda _: None)
    return config, open_checkpoint(folder)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8", "int4"])
def test_two_layers_of_sfrs_shape_build(library, sfr_layers, tmp_path, precision):
    config, checkpoint = sfr_layers
    graph = write_graph(checkpoint, tmp_path / "encoder.onnx", precision)
    build_plan(graph, tmp_path / "plan", options(library, precision))
    graph.with_name("encoder.onnx.data").unlink()
    check_precision(read_plan(tmp_path / "plan"), precision, config, 2)
    (tmp_path / "plan").unlink()


@pytest.mark.parametrize("streaming", [False, True])
def test_the_builder_is_configured_as_asked(library, graphs, tmp_path, streaming):
    wanted = options(library, "fp16", capability=86, weight_streaming=streaming)
    trt = library.module
    logger = make_logger(trt)
    config = plan_builder.configure(trt, trt.Builder(logger), wanted)
    assert config.get_flag(trt.BuilderFlag.WEIGHT_STREAMING) is streaming
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM86
    assert config.num_optimization_profiles == 1
    # A plan does not show without a GPU whether its weights may be streamed: it builds.
    assert build_plan(graphs("fp16"), tmp_path / "plan", wanted).plan_bytes > 0


def test_a_precision_that_the_target_lacks_is_not_tried(library, graphs, tmp_path):
    with pytest.raises(UnsupportedDevice, match="fp8 needs"):
        build_plan(graphs("fp16"), tmp_path / "plan", options(library, "fp8", capability=80))


def test_the_parsers_error_names_the_node(library, tmp_path):
    node = helper.make_node("Unheard", ["x"], ["y"], name="layers.0/odd", domain="com.example")
    value = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")
    ]
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("com.example", 1), helper.make_opsetid("", 23)]
    )
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(GraphRefused, match=re.escape("node 'layers.0/odd' (Unheard)")):
        build_plan(tmp_path / "encoder.onnx", tmp_path / "plan", options(library, "fp16"))


def test_a_full_disk_is_named(library, graphs, tmp_path):
    with pytest.raises(BuildFailed, match="No space left"):
        build_plan(graphs("fp16"), Full(tmp_path / "plan"), options(library, "fp16"))


class Full(type(__import__("pathlib").Path())):
    """A path whose file takes nothing."""

    def open(self, mode):
        return open("/dev/full", mode, buffering=0)  # noqa: PTH123
