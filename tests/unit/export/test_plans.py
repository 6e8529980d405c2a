"""Real plans, built by TensorRT-RTX for GPUs that are not in this machine."""

import gc
import os
import re
import signal
import weakref
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import BuildFailed, GraphRefused, UnsupportedDevice
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibrate import calibrate_model
from lasttoken_export.tensorrt import plan_builder
from lasttoken_export.tensorrt.callbacks import make_logger
from lasttoken_export.tensorrt.library import load_library
from lasttoken_export.tensorrt.network import parse_network
from lasttoken_export.tensorrt.plan_builder import PlanOptions, build_plan
from lasttoken_export.tensorrt.plan_contents import read_plan
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import TargetDevice
from lasttoken_perf.plain_calibration import PlainCalibration
from lasttoken_perf.random_checkpoint import SFR_CONFIG, write_random_checkpoint
from unit.export.checkpoints import WIDE_CONFIG, write_wide_folder

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed: make integrations, on x86-64 Linux"
)

PROFILE = PlanProfile(
    max_batch_tokens=512, max_rows=64, max_length=128, usual_batch_tokens=512, shares_prefixes=True
)


@pytest.fixture(scope="module")
def library():
    return load_library("tensorrt-rtx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wide_folder(tmp_path_factory.mktemp("plans") / "hf")


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
    ).build(
        rotary_positions=PROFILE.max_batch_tokens,
        version="test",
        shares_prefixes=PROFILE.shares_prefixes,
    )
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
    wanted = {"library": library, "precision": precision, "profile": PROFILE, **changes}
    return PlanOptions(target=TargetDevice(compute_capability=capability, name=None), **wanted)


def matrix_elements(config, layers):
    """Elements of the linear layers' weights."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv_size = config["num_key_value_heads"] * head_dim
    attention = hidden * (heads * head_dim + 2 * kv_size) + heads * head_dim * hidden
    return layers * (attention + 3 * hidden * config["intermediate_size"])


def test_the_network_has_the_graphs_inputs_and_output(library, graphs):
    trt = library.module
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network, _parser = parse_network(trt, builder, logger, graphs("fp16"))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    assert [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in inputs] == [
        (name, trt.DataType.INT32, (-1,) * dimensions)
        for name, dimensions in (
            ("input_ids", 1), ("row_lengths", 1), ("token_of_slot", 2), ("slot_of_token", 1),
        )
    ]  # fmt: skip
    assert network.num_outputs == 1
    output = network.get_output(0)
    assert (output.name, output.dtype) == ("embedding", trt.DataType.FLOAT)
    assert tuple(output.shape) == (-1, 256)
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    profile = PROFILE.to_tensorrt(builder)
    for name, bounds in PROFILE.shapes().items():
        assert tuple(tuple(shape) for shape in profile.get_shape(name)) == bounds


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
    assert contents.fused_attentions == WIDE_CONFIG["num_hidden_layers"]
    assert contents.constant_bytes["half"] >= 2 * matrix_elements(WIDE_CONFIG, 2)
    assert contents.constant_bytes.get("float", 0) < 1000
    assert report.plan_bytes == (tmp_path / "encoder.plan").stat().st_size
    assert report.seconds > 0
    assert progress
    assert all(0 < done <= steps for _, done, steps in progress)


def test_float32_is_built_of_separate_operators(library, graphs, tmp_path, monkeypatch):
    build_plan(graphs("fp32"), tmp_path / "encoder.plan", options(library, "fp32"))
    contents = read_plan(tmp_path / "encoder.plan")
    assert contents.fused_attentions == 0
    assert contents.constant_bytes["float"] >= 4 * matrix_elements(WIDE_CONFIG, 2)
    monkeypatch.setattr(plan_builder, "allow_unfused_attention", lambda *_: 0)
    with pytest.raises(BuildFailed, match="not supported by a dedicated kernel"):
        build_plan(graphs("fp32"), tmp_path / "failed.plan", options(library, "fp32"))
    assert not (tmp_path / "failed.plan").exists()


def test_a_plan_is_not_lost_for_want_of_a_timing_cache(tmp_path):
    """Enterprise TensorRT's, which is not installed here, alone has one."""
    enterprise = SimpleNamespace(is_rtx=False)
    config = SimpleNamespace(
        get_timing_cache=lambda: SimpleNamespace(serialize=lambda: bytearray(b"timings"))
    )
    (tmp_path / "file").write_text("no folder")
    for folder in ("folder", "file"):
        wanted = options(enterprise, "fp16", timing_cache=tmp_path / folder / "timings")
        plan_builder._save_timings(config, wanted)
    assert (tmp_path / "folder" / "timings").read_bytes() == b"timings"
    assert (tmp_path / "file").read_text() == "no folder"


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
    check_precision(read_plan(tmp_path / "plan"), precision, WIDE_CONFIG, 2)


def test_calibrated_scales_build_too(library, folder, tmp_path):
    """And a graph whose rows share nothing, as a model of both directions has it."""
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
    plain = options(library, "int8", profile=replace(PROFILE, shares_prefixes=False))
    build_plan(tmp_path / "encoder.onnx", tmp_path / "plan", plain)
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
    # The scratch memory follows the batch only with it.
    assert config.get_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10)
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


@pytest.mark.parametrize("fails", ["the parser", "the disk"])
def test_a_failed_builds_builder_is_gone_at_once(library, graphs, tmp_path, monkeypatch, fails):
    """TensorRT waits for itself where a collected builder ends while another one begins."""
    make_builder, builders = plan_builder._make_builder, []

    def kept(*arguments):
        builder = make_builder(*arguments)
        builders.append(weakref.ref(builder))
        return builder

    monkeypatch.setattr(plan_builder, "_make_builder", kept)
    graph = graphs("fp16")
    if fails == "the parser":
        graph = tmp_path / "encoder.onnx"
        graph.write_bytes(b"no graph")
    gc.disable()
    try:
        with pytest.raises((GraphRefused, BuildFailed)) as raised:
            build_plan(graph, Full(tmp_path / "plan"), options(library, "fp16"))
        assert [one() for one in builders] == [None], raised
    finally:
        gc.enable()


class Full(type(__import__("pathlib").Path())):
    """A path whose file takes nothing."""

    def open(self, mode):
        return open("/dev/full", mode, buffering=0)  # noqa: PTH123


@pytest.mark.parametrize("raised", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_build_is_not_lost(library, graphs, tmp_path, raised):
    def at_the_first_step(*_):
        if not sent:
            sent.append(os.kill(os.getpid(), raised))

    def end(*_):
        raise KeyboardInterrupt

    sent = []
    before = signal.signal(raised, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            build_plan(
                graphs("fp16"),
                tmp_path / "plan",
                options(library, "fp16"),
                on_progress=at_the_first_step,
            )
    finally:
        signal.signal(raised, before)
