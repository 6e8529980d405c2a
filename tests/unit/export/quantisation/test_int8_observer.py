"""Which layers int8 leaves in floats, for what their error would do to the hidden states."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken_export.graph.linear_layer import Fold, LinearLayer
from lasttoken_export.quantisation import int8_observer
from lasttoken_export.quantisation.input_changes import InputChange, LayerChanges
from lasttoken_export.quantisation.int8_observer import Int8Observer
from lasttoken_export.quantisation.sampled_tokens import LayerBatch, SampledTokens
from lasttoken_export.quantisation.smoothing import by_rows, by_rows_twice
from lasttoken_export.quantisation.weights import int8_channel_scales, to_int8

TOKENS, SIZE = 40, 32
RANDOM = np.random.default_rng(7)
WEIGHT = RANDOM.normal(size=(SIZE, SIZE)).astype(np.float32)
INPUTS = RANDOM.normal(size=(TOKENS, SIZE)).astype(np.float32)
FIRST = np.array([0, 15])


class Weights:
    config = SimpleNamespace(num_layers=30)

    @staticmethod
    def read(name):
        return WEIGHT.T


def observed(inputs, states, *, is_early=False, weights=Weights, **options):
    linear = LinearLayer(
        name="layers.0.down", parts=(("down", SIZE),), in_features=SIZE, bias=False,
        **{"fold": None, "smooths": ()} | options,
    )  # fmt: skip
    sample = SampledTokens(SIZE, 1000, TOKENS, 0)
    observer = Int8Observer(linear, weights(), sample, is_early=is_early)
    for half in (slice(0, 15), slice(15, TOKENS)):
        observer.see(inputs[half], LayerBatch(states=states[half], first_tokens=np.array([0])))
    return observer


def result(inputs, states, **options):
    observer = observed(inputs, states, **options)
    changes = {
        fold.linear: InputChange(factors=np.ones(SIZE)) for fold, _ in observer.linear.smooths
    }
    return observer.result(LayerChanges(changes | {observer.linear.name: observer.choose()}))


def needs_floats(states, *, adds_to_states=True):
    return bool(result(INPUTS, states, adds_to_states=adds_to_states)["floats"])


@pytest.mark.parametrize(
    ("scale_of_states", "scale_of_first", "expected"),
    [(100.0, 100.0, False), (0.5, 0.5, True), (100.0, 0.5, True)],
    ids=["small beside the states", "all there is", "all there is of first tokens"],
)
def test_a_layer_whose_error_weighs_on_the_states_stays_in_floats(
    scale_of_states, scale_of_first, expected
):
    states = INPUTS @ WEIGHT * np.float32(scale_of_states)
    states[FIRST] = (INPUTS @ WEIGHT)[FIRST] * np.float32(scale_of_first)
    assert needs_floats(states) is expected
    assert needs_floats(states, adds_to_states=False) is False


@pytest.mark.parametrize(
    ("scale_of_states", "wide", "floats"),
    [(100.0, False, False), (1.5, True, False), (1e-3, False, True)],
    ids=["small beside the states", "the inputs' part is too large", "the weights' part too"],
)
def test_inputs_are_rounded_twice_where_that_is_enough(scale_of_states, wide, floats):
    states = INPUTS @ WEIGHT * np.float32(scale_of_states)
    found = result(INPUTS, states, adds_to_states=True)
    assert (bool(found["wide"]), bool(found["floats"])) == (wide, floats)


def test_what_is_rounded_twice_is_off_by_less_than_a_ten_thousandth_of_a_row():
    once, twice = by_rows(INPUTS), by_rows_twice(INPUTS)
    largest = np.abs(INPUTS).max(axis=1, keepdims=True)
    assert (np.abs(once - INPUTS) / largest).max() > 3e-3
    assert (np.abs(twice - INPUTS) / largest).max() < 2e-5


def test_weights_are_rounded_for_what_is_left_when_the_common_part_is_taken_away():
    mixing = RANDOM.normal(size=(6, SIZE))
    own = (RANDOM.normal(size=(TOKENS, 6)) @ mixing).astype(np.float32)
    common = (30 * RANDOM.normal(size=SIZE)).astype(np.float32)
    found = result(own + common, own, adds_to_states=False)
    assert "offset" in found
    weight = found["int8_codes"] * found["int8_scales"] / found["factors"][:, None]
    nearest = to_int8(WEIGHT, int8_channel_scales(WEIGHT)) * int8_channel_scales(WEIGHT)
    off, off_nearest = (np.square(own @ (w - WEIGHT)).mean() for w in (weight, nearest))
    assert off < 0.3 * off_nearest


HEADS = ((Fold.one_to_one("layers.0.o", SIZE, head_dim=16), 0),)


@pytest.mark.parametrize(("is_early", "makes_heads"), [(True, True), (True, False), (False, True)])
def test_inputs_of_early_heads_are_rounded_twice(is_early, makes_heads):
    heads = {"smooths": HEADS} if makes_heads else {}
    states = 100 * INPUTS
    found = result(INPUTS, states, is_early=is_early, adds_to_states=False, **heads)
    assert not found["floats"]
    assert bool(found["wide"]) is (is_early and makes_heads)
    assert ("fixed" in found) != (is_early and makes_heads)


def test_early_heads_whose_weights_int8_cannot_say_stay_in_floats():
    class Coarse(Weights):
        @staticmethod
        def read(name):
            weight = WEIGHT.copy()
            weight[0] *= 1e4  # of inputs that are nearly zero
            return weight.T

    inputs = INPUTS.copy()
    inputs[:, 0] *= 1e-9
    shared = Fold(linear="layers.0.down", channels=np.zeros(SIZE, np.int64), size=1)
    found = result(
        inputs, 100 * inputs, is_early=True, weights=Coarse, adds_to_states=False,
        smooths=HEADS, fold=shared,
    )  # fmt: skip
    assert (bool(found["wide"]), bool(found["floats"])) == (False, True)


@pytest.mark.parametrize(
    ("largest_channel", "folds", "smooths"),
    [(1.5, False, False), (1.5, True, True), (30.0, False, True), (30.0, True, True)],
)
def test_inputs_are_smoothed_by_a_pass_of_its_own_only_where_that_tells(
    largest_channel, folds, smooths
):
    inputs = INPUTS.copy()
    inputs[:, 3] *= largest_channel
    fold = Fold.one_to_one("layers.0.down", SIZE) if folds else None
    change = observed(inputs, 100 * inputs, fold=fold).choose()
    assert bool((change.factors != 1).any()) is smooths


@pytest.mark.parametrize("folds", [False, True])
def test_nor_are_inputs_smoothed_before_a_rotation_where_it_hardly_tells(folds, monkeypatch):
    monkeypatch.setattr(int8_observer, "ROTATED_ABOVE", 1e-5)
    inputs = INPUTS.copy()
    outliers = np.random.default_rng(1).integers(0, SIZE, TOKENS)  # of no channel's own
    inputs[np.arange(TOKENS), outliers] *= 10
    inputs[:, 3] *= 1.5
    fold = Fold.one_to_one("layers.0.down", SIZE) if folds else None
    change = observed(inputs, 100 * inputs, fold=fold).choose()
    assert change.rotation == SIZE
    assert bool((change.factors != 1).any()) is folds
