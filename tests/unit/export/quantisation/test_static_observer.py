"""int8 and fp8 with one scale for all tokens, as TensorRT gets them."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from lasttoken_export.graph.linear_layer import LinearLayer
from lasttoken_export.quantisation.calibration import STATIC
from lasttoken_export.quantisation.gptq import gptq_fp8
from lasttoken_export.quantisation.input_changes import LayerChanges
from lasttoken_export.quantisation.observers import make_observer
from lasttoken_export.quantisation.sampled_tokens import LayerBatch, SampledTokens
from lasttoken_export.quantisation.static_inputs import StaticInputs, find_static_inputs
from lasttoken_export.quantisation.static_observer import StaticObserver
from lasttoken_export.quantisation.weights import fp8_channel_scales, to_fp8

TOKENS, SIZE = 200, 64
RANDOM = np.random.default_rng(11)
WEIGHT = RANDOM.normal(size=(SIZE, SIZE)).astype(np.float32)
INPUTS = RANDOM.normal(size=(TOKENS, SIZE)).astype(np.float32)
COMMON = (20 * RANDOM.normal(size=SIZE)).astype(np.float32)
FIRST = np.array([0, 90])


class Weights:
    config = SimpleNamespace(num_layers=30)

    @staticmethod
    def read(name):
        return WEIGHT.T


def observe(kind, inputs, states, *, adds_to_states=False, is_early=False, weights=Weights):
    outputs = len(weights.read(""))
    linear = LinearLayer(
        name="layers.0.down", parts=(("down", outputs),), in_features=SIZE, bias=False, fold=None,
        smooths=(), adds_to_states=adds_to_states,
    )  # fmt: skip
    sample = SampledTokens(SIZE, 1000, TOKENS, 0)
    observer = StaticObserver(kind, linear, weights(), sample, is_early=is_early)
    for half in (slice(0, 90), slice(90, TOKENS)):
        observer.see(inputs[half], LayerBatch(states=states[half], first_tokens=np.array([0])))
    changes = LayerChanges({linear.name: observer.choose()})
    return observer.result(changes)


def output_of(found, kind, inputs):
    """What a graph computes of plain inputs from what is kept."""
    changed = inputs / found["factors"]
    block = int(found["rotation"])
    if block:
        hadamard = np.ones((1, 1))
        while len(hadamard) < block:
            hadamard = np.kron(np.array([[1, 1], [1, -1]]), hadamard)
        changed = (changed.reshape(-1, block) @ hadamard / np.sqrt(block)).reshape(inputs.shape)
    fixed = StaticInputs(kind=kind, scale=float(found["input_scale"]), offset=found.get("offset"))
    codes = found[f"{kind}_codes"]
    if kind == "fp8":
        codes = codes.view(ml_dtypes.float8_e4m3fn)
    weight = codes.astype(np.float32) * found[f"{kind}_scales"]
    return fixed.rounded(changed.astype(np.float32)) @ weight + found[f"{kind}_bias"]


def relative_error(output, expected):
    return float((np.square(output - expected).sum(1) / np.square(expected).sum(1)).mean())


@pytest.mark.parametrize(("kind", "most"), [("int8", 5e-4), ("fp8", 2e-3)])
def test_what_is_kept_gives_the_output_and_its_error(kind, most):
    states = INPUTS @ WEIGHT
    found = observe(kind, INPUTS, states)
    error = relative_error(output_of(found, kind, INPUTS), INPUTS @ WEIGHT)
    assert error < most
    assert found["errors"][0] == pytest.approx(error, rel=1e-3)
    assert not found["floats"]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_what_all_tokens_have_in_common_is_not_rounded_with_each(kind):
    inputs = INPUTS + COMMON
    found = observe(kind, inputs, inputs @ WEIGHT)
    np.testing.assert_allclose(found["offset"] * found["factors"], COMMON, atol=1)
    output = output_of(found, kind, inputs)
    own = relative_error(output - COMMON @ WEIGHT, INPUTS @ WEIGHT)
    assert own < (1e-3 if kind == "int8" else 3e-3)


def test_an_outlier_channel_is_rotated_for_int8_and_left_for_fp8():
    inputs = INPUTS * np.float32(1)
    inputs[::7, 5] *= 60  # of some tokens: smoothing would cost the others
    states = inputs @ WEIGHT
    found = {kind: observe(kind, inputs, states) for kind in ("int8", "fp8")}
    assert (int(found["int8"]["rotation"]), int(found["fp8"]["rotation"])) == (32, 0)


def test_fp8_leaves_room_above_the_largest_input_and_int8_may_clip_it():
    inputs = INPUTS.copy()
    inputs[3] *= 30
    arguments = {"mean": inputs.mean(axis=0), "extremes": inputs}
    fp8, _ = find_static_inputs("fp8", WEIGHT, inputs, **arguments)
    int8, _ = find_static_inputs("int8", WEIGHT, inputs, **arguments)
    assert fp8.scale * 448 > 1.5 * np.abs(inputs).max()
    assert int8.scale * 127 < 0.9 * np.abs(inputs).max()


@pytest.mark.parametrize(
    ("kind", "of_first", "adds", "expected"),
    [
        ("int8", 1.0, True, False),
        ("int8", 1e-2, True, True),
        ("int8", 1e-2, False, False),
        ("fp8", 1e-2, True, False),
    ],
)
def test_an_int8_layer_whose_error_weighs_on_the_states_stays_in_floats(
    kind, of_first, adds, expected
):
    states = INPUTS @ WEIGHT * np.float32(10)
    states[FIRST] *= np.float32(of_first)
    assert bool(observe(kind, INPUTS, states, adds_to_states=adds)["floats"]) is expected


class NarrowWeights(Weights):
    @staticmethod
    def read(name):
        return WEIGHT.T[: SIZE // 2]


@pytest.mark.parametrize(
    ("kind", "is_early", "weights", "expected"),
    [
        ("int8", True, NarrowWeights, True),
        ("int8", False, NarrowWeights, False),
        ("int8", True, Weights, False),
        ("fp8", True, NarrowWeights, False),
    ],
)
def test_where_an_encoders_massive_activations_begin_int8_stays_in_floats(
    kind, is_early, weights, expected
):
    found = observe(kind, INPUTS, INPUTS @ WEIGHT, is_early=is_early, weights=weights)
    assert bool(found["floats"]) is expected


@pytest.mark.parametrize("is_early", [True, False])
def test_the_observer_is_told_whether_its_layer_is_early(is_early):
    linear = LinearLayer(
        name="layers.0.down", parts=(("down", SIZE // 2),), in_features=SIZE, bias=False,
        fold=None, smooths=(),
    )  # fmt: skip
    observer = make_observer(
        STATIC["int8"], linear, NarrowWeights(), tokens=TOKENS, seed=0, is_early=is_early
    )
    observer.see(INPUTS, LayerBatch(states=INPUTS @ WEIGHT, first_tokens=FIRST))
    changes = LayerChanges({linear.name: observer.choose()})
    assert bool(observer.result(changes)["floats"]) is is_early


def test_gptq_in_fp8_changes_the_output_less_than_rounding_to_nearest():
    mixing = RANDOM.normal(size=(128, 128)) * np.exp(RANDOM.normal(size=128))
    inputs = (RANDOM.normal(size=(600, 128)) @ mixing).astype(np.float32)
    weight = RANDOM.normal(size=(128, 40)).astype(np.float32)
    codes, scales = gptq_fp8(weight, inputs.T @ inputs)
    assert codes.dtype == ml_dtypes.float8_e4m3fn
    assert np.array_equal(scales, scales.astype(np.float16).astype(np.float32))
    assert np.isfinite(codes.astype(np.float32)).all()

    def error(quantised):
        return np.square(inputs @ (quantised.astype(np.float32) * scales - weight)).sum()

    np.testing.assert_allclose(scales, fp8_channel_scales(weight), rtol=2e-3)
    assert error(codes) < 0.5 * error(to_fp8(weight, scales))
