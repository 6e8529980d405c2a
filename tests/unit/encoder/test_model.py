"""The encoder's model.py with Triton's module played by a few classes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from unit.encoder.fakes import FakeEngine

FOLDER = Path(__file__).parents[3] / "model_repository" / "sfr_embedding_mistral_encoder"
DIMENSIONS = 4


class UnitEngine(FakeEngine):
    shares_prefixes = True

    def encode(self, input_ids, row_lengths):
        return np.eye(DIMENSIONS, dtype=np.float32)[np.zeros(len(row_lengths), int)]


class Tensor:
    def __init__(self, name, array):
        self.name, self._array = name, array

    def as_numpy(self):
        return self._array


class Family:
    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name, description, kind):
        self.values = {}

    def Metric(self, labels):  # noqa: N802 - Triton's name
        def increment(value):
            reason = labels.get("reason")
            self.values[reason] = self.values.get(reason, 0) + value

        return SimpleNamespace(increment=increment, set=lambda value: None)


class Request:
    """One request, with or without something that raises when it is read."""

    def __init__(self, parameters=lambda: "{}", timeout=lambda: 0):
        self.responses = []
        self.parameters, self.timeout = parameters, timeout
        self.tensors = {
            "INPUT_IDS": np.array([[1, 2]], np.int32),
            "ROW_LENGTHS": np.array([[2]], np.int32),
        }

    def get_response_sender(self):
        return SimpleNamespace(send=lambda response, flags: self.responses.append(response))

    def is_cancelled(self):
        return False


@pytest.fixture
def model(monkeypatch):
    triton = ModuleType("triton_python_backend_utils")
    triton.MetricFamily = Family
    triton.Tensor = Tensor
    triton.InferenceResponse = lambda tensors=(), error=None: SimpleNamespace(error=error)
    triton.TritonError = lambda message, code: (code, message)
    for code in ("INTERNAL", "INVALID_ARG", "UNAVAILABLE", "CANCELLED"):
        setattr(triton.TritonError, code, code)
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    triton.get_input_tensor_by_name = lambda request, name: Tensor(name, request.tensors[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    spec = importlib.util.spec_from_file_location("encoder_model", FOLDER / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "open_engine", lambda folder, settings: UnitEngine())
    config = text_format.Parse(
        (FOLDER / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    parameters = {name: {"string_value": p.string_value} for name, p in config.parameters.items()}
    described = {"parameters": parameters, "output": [{"dims": [DIMENSIONS]}]}
    made = module.TritonPythonModel()
    made.initialize(
        {
            "model_config": json.dumps(described),
            "model_repository": str(FOLDER),
            "model_version": "1",
            "model_name": "encoder",
        }
    )
    yield made
    made.finalize()


def no_text():
    return b"\xff".decode()  # what Triton's binding does with what HTTP lets through


def not_known():
    raise RuntimeError("nobody has thought of this")


@pytest.mark.parametrize(
    ("bad", "code", "reason"),
    [
        (Request(parameters=no_text), "INVALID_ARG", "invalid"),
        (Request(parameters=lambda: "{"), "INVALID_ARG", "invalid"),
        (Request(timeout=not_known), "INTERNAL", "internal"),
    ],
    ids=["no text", "no JSON", "unknown"],
)
def test_a_request_that_cannot_be_read_is_answered_alone(model, bad, code, reason):
    """Raised out of execute it would be the answer of the whole group, and crash the server."""
    good = [Request(), Request()]
    model.execute([good[0], bad, good[1]])
    model.finalize()
    assert [len(request.responses) for request in (*good, bad)] == [1, 1, 1]
    assert [request.responses[0].error for request in good] == [None, None]
    assert bad.responses[0].error[0] == code
    assert model._metrics._refused.values[reason] == 1


def test_metrics_that_cannot_be_told_and_a_caller_who_is_gone_harm_no_other(model, monkeypatch):
    def gone(*_arguments, **_options):
        raise RuntimeError("cannot communicate with the server")

    unheard, bad, good = Request(), Request(parameters=no_text), Request()
    unheard.tensors["ROW_LENGTHS"] = np.array([[0]], np.int32)  # refused, and so told of at once
    unheard.get_response_sender = lambda: SimpleNamespace(send=gone)
    monkeypatch.setattr(model._metrics, "request_dropped", gone)
    monkeypatch.setattr(model._metrics, "set_queue_tokens", gone)
    model.execute([unheard, bad, good])
    model.finalize()
    assert [len(request.responses) for request in (bad, good)] == [1, 1]
    assert good.responses[0].error is None


def test_batches_are_planned_by_what_the_engine_shares(model):
    classes = model._scheduler._queue._classes.values()
    assert all(queue._cost.shares_prefixes for queue in classes)
