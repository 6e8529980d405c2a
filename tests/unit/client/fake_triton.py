"""A Triton that follows a script: KServe v2 over real gRPC, in this process, without models.

The vector of a text depends on its bytes alone, so a test can say what every row must be.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

DIMENSIONS = 8
MODEL = "toy_embedder"


def vector_of(text: str | bytes) -> np.ndarray:
    data = text.encode() if isinstance(text, str) else text
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)
    return vector / np.linalg.norm(vector)


def vectors_of(texts: list[str]) -> np.ndarray:
    return np.stack([vector_of(text) for text in texts])


@dataclass
class Call:
    """One ModelInfer as it arrived."""

    inputs: dict[str, list[bytes]]
    shapes: dict[str, list[int]]
    parameters: dict[str, object]
    metadata: dict[str, str]
    time_remaining_s: float | None
    arrived: float
    context: grpc.ServicerContext = field(repr=False)

    @property
    def texts(self) -> list[bytes]:
        return self.inputs["TEXT"]


@dataclass
class Tensors:
    """What will be answered; an action may change it."""

    embedding: np.ndarray | None
    token_count: np.ndarray | None
    truncated: np.ndarray | None
    shape: list[int] | None = None  # said instead of the embedding's own


Action = Callable[[Call, Tensors], None]


def refuse(
    code: grpc.StatusCode, message: str = "scripted refusal", after_s: float = 0.0
) -> Action:
    def action(call: Call, tensors: Tensors) -> None:
        time.sleep(after_s)
        call.context.abort(code, message)

    return action


def delay(seconds: float) -> Action:
    """Answer later, but stop waiting when the caller has gone."""

    def action(call: Call, tensors: Tensors) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and call.context.is_active():
            time.sleep(0.005)

    return action


def answer(call: Call, tensors: Tensors) -> None:
    """The answer that a good server gives."""


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self) -> None:
        self.first: deque[Action] = deque()  # one for each of the first requests
        self.otherwise: Action = answer
        self.calls: list[Call] = []
        self.in_flight = 0
        self.peak_in_flight = 0
        self.cancelled = 0
        self.url = ""
        self.models = {MODEL: "READY"}
        self.card = None
        self._lock = threading.Lock()

    def ModelInfer(self, request, context):  # noqa: N802
        call = _parse(request, context)
        with self._lock:
            self.calls.append(call)
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
            action = self.first.popleft() if self.first else self.otherwise
        # gRPC tells of the end of every call; ended while we work on it means cancelled.
        answered = threading.Event()

        def on_end() -> None:
            if not answered.is_set():
                with self._lock:
                    self.cancelled += 1

        context.add_callback(on_end)
        rows = len(call.texts)
        tensors = Tensors(
            embedding=np.stack([vector_of(text) for text in call.texts]),
            token_count=np.array([[len(text)] for text in call.texts], dtype=np.int32),
            truncated=np.array([[b"TOO LONG" in text] for text in call.texts]),
        )
        try:
            if request.model_name not in self.models:
                context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.model_name}")
            action(call, tensors)
        finally:
            answered.set() if context.is_active() else None
            with self._lock:
                self.in_flight -= 1
        assert rows
        return _response(request.model_name, tensors)

    def ModelMetadata(self, request, context):  # noqa: N802
        if self.models.get(request.name) != "READY":
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.name}")
        metadata = service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])
        metadata.inputs.add(name="TEXT", datatype="BYTES", shape=[-1, 1])
        if not request.name.endswith("_tokenizer"):
            metadata.outputs.add(name="EMBEDDING", datatype="FP32", shape=[-1, DIMENSIONS])
        return metadata

    def ModelConfig(self, request, context):  # noqa: N802
        response = service_pb2.ModelConfigResponse()
        response.config.name = request.name
        if self.card is not None:
            response.config.parameters["card"].string_value = self.card
        return response

    def RepositoryIndex(self, request, context):  # noqa: N802
        index = service_pb2.RepositoryIndexResponse()
        for name, state in self.models.items():
            index.models.add(name=name, version="1", state=state)
        return index

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[FakeTriton]:
        server = grpc.server(
            ThreadPoolExecutor(max_workers=64), options=[("grpc.max_receive_message_length", -1)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        self.url = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
        server.start()
        self._server = server
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """End at once: calls in flight are lost."""
        self._server.stop(grace=None).wait()

    def wait_until(self, condition: Callable[[FakeTriton], bool], seconds: float = 30.0) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition(self):
                return True
            time.sleep(0.005)
        return condition(self)


def _parse(request, context) -> Call:
    inputs, shapes = {}, {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        assert tensor.datatype == "BYTES"
        values, position = [], 0
        while position < len(raw):
            (length,) = struct.unpack_from("<I", raw, position)
            values.append(raw[position + 4 : position + 4 + length])
            position += 4 + length
        inputs[tensor.name] = values
        shapes[tensor.name] = list(tensor.shape)
    parameters = {}
    for name, value in request.parameters.items():
        parameters[name] = getattr(value, value.WhichOneof("parameter_choice"))
    return Call(
        inputs=inputs,
        shapes=shapes,
        parameters=parameters,
        metadata={str(k): str(v) for k, v in context.invocation_metadata()},
        time_remaining_s=context.time_remaining(),
        arrived=time.monotonic(),
        context=context,
    )


def _response(model: str, tensors: Tensors):
    response = service_pb2.ModelInferResponse(model_name=model, model_version="1")
    kinds = {"float32": "FP32", "float64": "FP64", "int32": "INT32", "int64": "INT64"}
    for name, array in (
        ("EMBEDDING", tensors.embedding),
        ("TOKEN_COUNT", tensors.token_count),
        ("TRUNCATED", tensors.truncated),
    ):
        if array is None:
            continue
        shape = list(array.shape)
        if name == "EMBEDDING" and tensors.shape is not None:
            shape = tensors.shape
        datatype = kinds.get(str(array.dtype), "BOOL")
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(array.tobytes())
    return response
