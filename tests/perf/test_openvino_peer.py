"""What OpenVINO is given and asked for; OpenVINO itself runs in `lasttoken-perf peers` alone."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from lasttoken_perf.peers.openvino_model import OpenVinoModel

INPUT_IDS = np.array([[5, 6, 7], [8, 9, 0]])
MASK = np.array([[1, 1, 1], [1, 1, 0]])


class FakeOpenVino:
    """Notes what it is given; its hidden states are the positions."""

    def __init__(self, *inputs: str, computes: str = "bf16") -> None:
        self.inputs = [SimpleNamespace(get_names=lambda name=name: {name}) for name in inputs]
        self.computes = computes
        self.given: dict[str, np.ndarray] = {}

    def compile_model(self, model, device, settings):
        self.model, self.device, self.settings = model, device, settings
        return self

    def get_property(self, name):
        assert name == "INFERENCE_PRECISION_HINT"
        return SimpleNamespace(get_type_name=lambda: self.computes)

    def create_infer_request(self):
        return self

    def infer(self, inputs, *, share_inputs):
        self.given = inputs

    def get_output_tensor(self, index):
        assert index == 0
        return SimpleNamespace(data=np.zeros((*INPUT_IDS.shape, 4), np.float32))


@pytest.fixture
def openvino(monkeypatch):
    """Put stand-ins for OpenVINO, its exporter and transformers where they are imported from."""

    def put(*inputs: str, computes: str = "bf16") -> FakeOpenVino:
        engine = FakeOpenVino(*inputs, computes=computes)

        def export(folder, **options):
            engine.export = {"folder": folder, **options}
            return SimpleNamespace(model="graph")

        modules = {
            "openvino": {"Core": lambda: engine, "__version__": "2026.4.1-22982-abc"},
            "transformers": {"MistralModel": type("MistralModel", (), {})},
            "openvino_telemetry": {},
            "optimum": {},
            "optimum.intel": {
                "OVModelForFeatureExtraction": SimpleNamespace(from_pretrained=export),
                "OVWeightQuantizationConfig": lambda *, bits: f"{bits} bits",
            },
        }
        for name, members in modules.items():
            module = ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)
        return engine

    return put


def test_every_input_of_the_graph_is_given_positions_too(openvino):
    engine = openvino("input_ids", "attention_mask", "position_ids")
    model = OpenVinoModel("folder", precision="fp32", threads=2)
    assert model.version == "2026.4.1"
    assert model.last_hidden_state(INPUT_IDS, MASK).shape == (2, 3, 4)
    assert set(engine.given) == {"input_ids", "attention_mask", "position_ids"}
    assert np.array_equal(engine.given["input_ids"], INPUT_IDS)
    assert np.array_equal(engine.given["attention_mask"], MASK)
    assert np.array_equal(engine.given["position_ids"], [[0, 1, 2], [0, 1, 2]])


def test_nothing_of_it_can_import_what_sends_usage_figures(openvino):
    openvino("input_ids")
    OpenVinoModel("folder", precision="fp32", threads=2)
    with pytest.raises(ImportError):
        import_module("openvino_telemetry")


def test_an_encoder_gets_one_segment(openvino):
    engine = openvino("input_ids", "attention_mask", "token_type_ids")
    OpenVinoModel("folder", precision="fp32", threads=2).last_hidden_state(INPUT_IDS, MASK)
    assert set(engine.given) == {"input_ids", "attention_mask", "token_type_ids"}
    assert not engine.given["token_type_ids"].any()


@pytest.mark.parametrize(
    ("precision", "hint", "rounding"),
    [("fp32", "f32", None), ("bf16", "bf16", None), ("int8", None, "8 bits")],
)
def test_a_precision_is_asked_for_on_all_cores(openvino, precision, hint, rounding):
    engine = openvino("input_ids")
    OpenVinoModel("folder", precision=precision, threads=7)
    assert engine.device == "CPU"
    assert engine.model == "graph"
    assert engine.settings["INFERENCE_NUM_THREADS"] == 7
    assert engine.settings.get("INFERENCE_PRECISION_HINT") == hint
    assert engine.export["folder"] == "folder"
    assert engine.export["quantization_config"] == rounding


def test_a_processor_without_bfloat16_says_so(openvino):
    openvino("input_ids", computes="f32")
    OpenVinoModel("folder", precision="fp32", threads=2)
    with pytest.raises(RuntimeError, match="bf16 in f32 on this processor"):
        OpenVinoModel("folder", precision="bf16", threads=2)
