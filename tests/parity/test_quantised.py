"""Quantised graphs of small random checkpoints against their own fp32 graph."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.graph.linear import LinearLayers
from lasttoken_export.graph.linear_weights import LinearWeights
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation import fixed_inputs, int8_observer
from lasttoken_export.quantisation.calibrate import calibrate_model
from lasttoken_export.quantisation.calibration import ROWS, Calibration, scheme_of
from lasttoken_export.quantisation.rotated_checkpoint import with_rotated_states
from lasttoken_export.server_modules import server_module
from parity.test_architectures import CASES, build

NAMES = ("qwen2", "bert, mean", "nomic")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoint, contract and calibrations of each architecture, made once."""
    made = {}

    def model(name):
        if name not in made:
            case = CASES[name]
            folder = tmp_path_factory.mktemp("hf")
            build(folder, case)
            contract = EmbeddingContract(
                pooling=case.pooling, attention=case.attention, layer_norm=case.layer_norm
            )
            checkpoint = open_checkpoint(folder)
            scales = {
                scheme_of(precision, target): calibrate_model(
                    checkpoint,
                    token_rows(1),
                    precision=precision,
                    target=target,
                    contract=contract,
                )
                for precision, target in (
                    ("int8", "onnxruntime"),
                    ("int8", "tensorrt"),
                    ("fp8", "tensorrt"),
                    ("int4", "onnxruntime"),
                )
            }
            made[name] = checkpoint, contract, scales
        return made[name]

    return model


def token_rows(seed):
    random = np.random.default_rng(seed)
    return [random.integers(2, 101, length, dtype=np.int32) for length in (1, 5, 17, 30, 64, 90)]


def session_of(model, folder, precision, target, *, threads=0, streams=None):
    checkpoint, contract, scales = model
    graph = model_graph(
        checkpoint,
        precision=precision,
        target=target,
        contract=contract,
        calibration=(
            scales[scheme_of(precision, target)] if PRECISIONS[precision].is_calibrated else None
        ),
    ).build(rotary_positions=512, version="0")
    path = folder / f"{precision}-{target}.onnx"
    ir.save(graph, path, external_data=f"{path.name}.data")
    module = server_module(ENCODER, "onnxruntime_engine")
    return module.OnnxRuntimeEngine(
        path,
        runtime="onnxruntime-cpu",
        intra_op_threads=threads,
        streams=streams or module.ONE_AT_A_TIME,
    )


def optimised_kinds(folder, path):
    """Operators of a graph as ONNX Runtime runs it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in ir.load(folder / "optimised.onnx").graph}


def encode(engine, rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    return engine.encode(np.concatenate(rows), lengths)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("name", NAMES)
def test_smoothing_and_rotation_change_nothing(name, target, models, tmp_path, monkeypatch):
    model = models(name)
    checkpoint = model[0]

    def factors(self, linear):
        size = len(found(self, linear))
        if "o_proj" in linear:  # heads that share values share factors
            heads = checkpoint.config.num_heads // checkpoint.config.num_kv_heads
            shared = size // checkpoint.config.num_heads
            groups = np.exp(np.linspace(-2, 2, size // heads)).reshape(-1, 1, shared)
            return groups.repeat(heads, axis=1).ravel().astype(np.float32)
        return np.exp(np.linspace(-2, 2, size)).astype(np.float32)

    def rotation(self, linear):
        return 8  # folded into values, or a product

    found = Calibration.factors
    monkeypatch.setattr(Calibration, "factors", factors)
    monkeypatch.setattr(Calibration, "rotation", rotation)
    monkeypatch.setattr(Calibration, "needs_floats", lambda self, linear: True)
    reference = encode(session_of(model, tmp_path, "fp32", "onnxruntime"), token_rows(2))
    smoothed = encode(session_of(model, tmp_path, "int8", target), token_rows(2))
    # On the CPU the table of word embeddings is in int8 whatever the layers are.
    least = 0.9999 if target == "tensorrt" else 0.999
    assert (smoothed * reference).sum(1).min() > least


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("precision", "target", "mean"),
    [
        ("int8", "onnxruntime", 0.995),
        ("int8-weights", "onnxruntime", 0.999),
        ("int4", "onnxruntime", 0.9),
        ("int8", "tensorrt", 0.97),
        ("fp8", "tensorrt", 0.97),
        ("int8-weights", "tensorrt", 0.999),
        ("int4", "tensorrt", 0.9),
    ],
)
def test_quantised_vectors_stay_close(name, precision, target, mean, models, tmp_path):
    model = models(name)
    reference = encode(session_of(model, tmp_path, "fp32", "onnxruntime"), token_rows(2))
    session = session_of(model, tmp_path, precision, target)
    quantised = encode(session, token_rows(2))
    assert (quantised * reference).sum(1).mean() > mean
    assert not np.array_equal(quantised, reference)
    if target == "onnxruntime":  # a row's vector does not depend on its neighbours
        alone = np.concatenate([encode(session, [row]) for row in token_rows(2)])
        assert np.array_equal(alone, quantised)
        kinds = optimised_kinds(tmp_path, tmp_path / f"{precision}-{target}.onnx")
        assert ("MatMulIntegerToFloat" if precision == "int8" else "MatMulNBits") in kinds
        assert "DynamicQuantizeLinear" not in kinds


@pytest.mark.parametrize("sessions", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-weights", "int4"])
@pytest.mark.parametrize("name", NAMES)
def test_streams_change_no_bit(name, precision, sessions, models, tmp_path):
    """One thread computes what two do, and two streams at a time what one does."""
    module = server_module(ENCODER, "streams")
    engine = session_of(
        models(name), tmp_path, precision, "onnxruntime",
        threads=2, streams=module.Streams(count=2, sessions=sessions),
    )  # fmt: skip
    assert engine.streams == 2
    are_exact = module.are_exact
    if not are_exact(engine, max_length=90, vocab_size=101):
        pytest.skip("on this processor a server of this model has no streams")
    rows = token_rows(3)
    packed = np.concatenate(rows), np.array([len(row) for row in rows], np.int32)
    expected = engine.encode(*packed)
    with ThreadPoolExecutor(2) as pool:
        for vectors in pool.map(lambda _: engine.encode_in_stream(*packed), range(8)):
            assert np.array_equal(vectors, expected)
    for row, vector in zip(rows, expected, strict=True):
        alone = engine.encode_in_stream(row, np.array([len(row)], np.int32))
        assert np.array_equal(alone[0], vector)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-weights", "int4"])
def test_options_of_processors_that_saturate_change_no_bit(
    precision, models, tmp_path, monkeypatch
):
    """They are set here as for such a processor, whatever this one is."""
    model = models(NAMES[0])
    expected = encode(session_of(model, tmp_path, precision, "onnxruntime"), token_rows(2))
    module = server_module(ENCODER, "onnxruntime_session")
    monkeypatch.setattr(module, "int8_products_saturate", lambda flags: True)
    session = session_of(model, tmp_path, precision, "onnxruntime")
    assert np.array_equal(encode(session, token_rows(2)), expected)


def calibrated(model, folder, monkeypatch, *, most):
    """The model with int8 for the CPU calibrated anew, one scale for all tokens up to an error."""
    checkpoint, contract, scales = model
    monkeypatch.setattr(int8_observer, "MOST_OF_ALL", most)
    monkeypatch.setattr(fixed_inputs, "AS_GOOD", 0)
    monkeypatch.setattr(int8_observer, "STATES_MOST_OF_ALL", np.inf)
    found = calibrate_model(
        checkpoint, token_rows(1), precision="int8", contract=contract, folder=folder
    )
    return (checkpoint, contract, scales | {ROWS: found}), found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("most", "fixed"), [(0, False), (np.inf, True)])
def test_one_scale_for_all_tokens_or_a_scale_a_token(
    most, fixed, name, models, tmp_path, monkeypatch
):
    model, found = calibrated(models(name), tmp_path, monkeypatch, most=most)
    linears = found.manifest["linears"]
    assert {found.fixed_inputs(linear) is not None for linear in linears} == {fixed}
    session = session_of(model, tmp_path, "int8", "onnxruntime")
    operators = {node.op_type for node in ir.load(tmp_path / "int8-onnxruntime.onnx").graph}
    assert ("ReduceMax" in operators) is not fixed
    reference = encode(session_of(model, tmp_path, "fp32", "onnxruntime"), token_rows(2))
    vectors = encode(session, token_rows(2))
    assert (vectors * reference).sum(1).mean() > 0.995
    for row, vector in zip(token_rows(2), vectors, strict=True):
        assert np.array_equal(encode(session, [row])[0], vector)


@pytest.mark.parametrize("name", ["qwen2", "nomic"])
def test_a_scale_a_token_of_up_reaches_one_scale_for_all_behind_it(
    name, models, tmp_path, monkeypatch
):
    model, _ = calibrated(models(name), tmp_path, monkeypatch, most=np.inf)
    found = Calibration.fixed_inputs
    monkeypatch.setattr(
        Calibration,
        "fixed_inputs",
        lambda self, linear: found(self, linear) if linear.endswith(("down_proj", "fc2")) else None,
    )
    vectors = encode(session_of(model, tmp_path, "int8", "onnxruntime"), token_rows(2))
    reference = encode(session_of(model, tmp_path, "fp32", "onnxruntime"), token_rows(2))
    assert (vectors * reference).sum(1).mean() > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_inputs_rounded_twice_are_all_but_floats(name, models, tmp_path, monkeypatch):
    model, _ = calibrated(models(name), tmp_path, monkeypatch, most=0)
    products = {}
    for kind, wide in (("once", False), ("twice", True)):
        monkeypatch.setattr(Calibration, "is_wide", lambda self, linear, wide=wide: wide)
        (tmp_path / kind).mkdir()
        session = session_of(model, tmp_path / kind, "int8", "onnxruntime")
        vectors = encode(session, token_rows(2))
        for row, vector in zip(token_rows(2), vectors, strict=True):
            assert np.array_equal(encode(session, [row])[0], vector)
        products[kind] = vectors
    # What is left are the weights' errors: those of weights rounded, inputs in floats.
    found = model[2][ROWS]

    def rounded(self, layer, columns, dtype=np.float32):
        codes, scales = found.channel_codes(layer.name), found.channel_scales(layer.name)
        return (codes * scales).astype(dtype)[:, columns.as_slice]

    monkeypatch.setattr(Calibration, "needs_floats", lambda self, linear: True)
    monkeypatch.setattr(LinearWeights, "_read", rounded)
    floats = encode(session_of(model, tmp_path, "int8", "onnxruntime"), token_rows(2))
    off = {kind: np.abs(vectors - floats).max() for kind, vectors in products.items()}
    assert off["twice"] < 0.02 * off["once"]


@pytest.mark.parametrize("wide", [False, True])
def test_a_row_of_zeros_stays_zero(wide, models, tmp_path, monkeypatch):
    model, _ = calibrated(models("mistral, mean"), tmp_path, monkeypatch, most=0)
    monkeypatch.setattr(Calibration, "is_wide", lambda self, linear: wide)
    checkpoint = model[0]
    read = type(checkpoint).read

    def with_a_zero_word(self, name):
        array = read(self, name)
        if name == "embed_tokens.weight":
            array = array.copy()
            array[7] = 0
        return array

    monkeypatch.setattr(type(checkpoint), "read", with_a_zero_word)
    session = session_of(model, tmp_path, "int8", "onnxruntime")
    rows = [*token_rows(2), np.full(3, 7, np.int32)]
    vectors = encode(session, rows)
    assert not vectors[-1].any()
    assert np.array_equal(vectors[:-1], encode(session, rows[:-1]))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("qwen2", [207, 6]),  # pools the last token
        ("xlm-roberta", [207, 6]),  # and the first
        ("mistral, mean", [207, 207]),
    ],
)
def test_the_last_layer_computes_the_pooled_tokens_alone(name, counts, precision, models, tmp_path):
    session_of(models(name), tmp_path, precision, "onnxruntime")
    path = tmp_path / f"{precision}-onnxruntime.onnx"
    graph = ir.load(path)
    layers = models(name)[0].config.num_layers
    ends = [
        value
        for node in graph.graph
        for value in node.outputs
        if value.name in {f"layers.{layers - 2}/mlp_residual", f"layers.{layers - 1}/mlp_residual"}
    ]
    for value in ends:
        value.dtype = ir.DataType.FLOAT
        graph.graph.outputs.append(value)
    ir.save(graph, tmp_path / "seen.onnx", external_data="seen.data")
    session = ort.InferenceSession(tmp_path / "seen.onnx", providers=["CPUExecutionProvider"])
    rows = token_rows(2)
    feeds = {
        "input_ids": np.concatenate(rows),
        "row_lengths": np.array([len(row) for row in rows], np.int32),
        "slots": np.zeros(90, np.int32),
    }
    _, *seen = session.run(None, feeds)
    assert [len(hidden) for hidden in seen] == counts


@pytest.mark.parametrize("name", NAMES)
def test_int4_multiplies_inputs_in_floats(name, models, tmp_path, monkeypatch):
    """Against the same codes, widened and multiplied in float32 operator by operator."""
    engine = session_of(models(name), tmp_path, "int4", "onnxruntime")

    def dequantised(self, value, layer, row_scale):
        return self._by_weights(
            value, row_scale, lambda columns: self._weights.int4_blocks(layer, columns)
        )

    monkeypatch.setattr(LinearLayers, "_by_int4_blocks", dequantised)
    (tmp_path / "plain").mkdir()
    session_of(models(name), tmp_path / "plain", "int4", "onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    path = tmp_path / "plain/int4-onnxruntime.onnx"
    plain = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rows = token_rows(2)
    feeds = {
        "input_ids": np.concatenate(rows),
        "row_lengths": np.array([len(row) for row in rows], np.int32),
        "slots": np.zeros(90, np.int32),
    }
    assert np.abs(encode(engine, rows) - plain.run(None, feeds)[0]).max() < 1e-5


def counted_tokens(engine, lengths):
    ids = np.zeros(sum(lengths), np.int32)
    return engine.computed_work(ids, np.array(lengths, np.int32)).tokens


@pytest.mark.parametrize("precision", ["int4", "int8-weights", "int8", "fp32"])
@pytest.mark.parametrize("name", ["qwen2", "bert, mean"])
def test_a_token_behind_a_whole_part_of_a_product_has_company(name, precision, models, tmp_path):
    """ONNX Runtime multiplies weights in blocks by 128 rows at a time, and one row differently."""
    engine = session_of(models(name), tmp_path, precision, "onnxruntime")
    more = 1 if precision in ("int4", "int8-weights") else 0
    for lengths in ([1], [90, 39], [39, 90], [128, 1], [1, 128], [64, 64, 64, 64, 1]):
        counted = counted_tokens(engine, lengths)
        assert counted == sum(lengths) + more
        random = np.random.default_rng(5)
        rows = [random.integers(2, 101, length, dtype=np.int32) for length in lengths]
        together = encode(engine, [*rows, *token_rows(2)])
        vectors = encode(engine, rows)
        assert vectors.shape == (len(rows), engine.dimensions)
        assert np.array_equal(vectors, together[: len(rows)])
    for lengths in ([2], [64, 64], [90, 40]):
        assert counted_tokens(engine, lengths) == sum(lengths)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "mistral, mean", "qwen2, both directions"])
def test_rotated_hidden_states_make_the_same_vectors(name, models, tmp_path):
    checkpoint, contract, scales = models(name)
    rotated = with_rotated_states(checkpoint)
    plain = session_of(models(name), tmp_path, "fp32", "onnxruntime")
    expected = encode(plain, token_rows(2))
    engine = session_of((rotated, contract, scales), tmp_path, "fp32", "onnxruntime")
    np.testing.assert_allclose(encode(engine, token_rows(2)), expected, atol=2e-5)


def test_an_encoder_is_not_rotated(models):
    checkpoint = models("bert, mean")[0]
    assert with_rotated_states(checkpoint) is checkpoint


@pytest.mark.parametrize(("name", "twice"), [("bert, mean", True), ("mistral, mean", False)])
def test_inputs_of_the_heads_of_an_encoders_first_sixth_are_rounded_twice(name, twice, tmp_path):
    case = CASES[name]
    build(tmp_path / "hf", replace(case, settings={**case.settings, "num_hidden_layers": 6}))
    contract = EmbeddingContract(pooling=case.pooling, attention=case.attention)
    checkpoint = open_checkpoint(tmp_path / "hf")
    found = calibrate_model(checkpoint, token_rows(1), precision="int8", contract=contract)
    heads = sorted(linear for linear in found.manifest["linears"] if "qkv" in linear)
    assert [found.is_wide(linear) for linear in heads] == [twice, *[False] * 5]
    assert not any(map(found.needs_floats, heads))
