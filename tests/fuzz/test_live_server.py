"""Malformed, oversized and lying requests to a real Triton: refused, and then a good one works."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from conftest import MODEL
from fuzz.bounds import fuzzed
from fuzz.damage import damaged_bytes
from lasttoken import EmbeddingClient

pytestmark = pytest.mark.server

INFER = "/inference.GRPCInferenceService/ModelInfer"
TEXT = "a good text"


@pytest.fixture(scope="module")
def server(smollm2_server):
    return smollm2_server


@pytest.fixture(scope="module")
def channel(server):
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc_url, options) as opened:
        yield opened


@pytest.fixture(scope="module")
def good_vector(server):
    with EmbeddingClient(server.grpc_url, MODEL) as client:
        return client.embed(TEXT)


@pytest.fixture(autouse=True)
def it_serves_afterwards(server, good_vector):
    yield
    with EmbeddingClient(server.grpc_url, MODEL) as client:
        np.testing.assert_array_equal(client.embed(TEXT, timeout_s=60), good_vector)


def call(channel, method, message, timeout_s=30):
    """Send bytes as they are; the status that comes back."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    try:
        channel.unary_unary(method)(content, timeout=timeout_s)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def request(**changes):
    """A good request of one text, but for the changes."""
    made = service_pb2.ModelInferRequest(model_name=changes.pop("model", MODEL))
    tensor = made.inputs.add(
        name=changes.pop("name", "TEXT"), datatype=changes.pop("type", "BYTES")
    )
    tensor.shape.extend(changes.pop("shape", [1, 1]))
    made.raw_input_contents.append(changes.pop("raw", element(TEXT.encode())))
    assert not changes
    return made


def element(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<I", len(content) if length is None else length) + content


def test_a_good_request_is_good(channel):
    assert call(channel, INFER, request())[0] == grpc.StatusCode.OK


@fuzzed(40)
@given(content=st.binary(max_size=300) | damaged_bytes(request().SerializeToString()))
def test_noise_for_protobuf(channel, content):
    status, _ = call(channel, INFER, content)
    assert status not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    "changes",
    [
        {"raw": b""},
        {"raw": b"\x01"},
        {"raw": element(b"x", 2**32 - 1)},
        {"raw": element(b"x", 2**31)},
        {"raw": element(b"x", 2)},
        {"raw": element(b"x", 0)},
        {"raw": element(b"x") * 3},
        {"raw": element(b"\xff\xfe")},
        {"shape": []},
        {"shape": [1]},
        {"shape": [-1, 1]},
        {"shape": [2, 1]},
        {"shape": [1, 1, 1]},
        {"shape": [2**62, 2]},
        {"shape": [2**32, 2**32]},
        {"shape": [257, 1], "raw": element(b"x") * 257},
        {"shape": [10_000, 1], "raw": element(b"x") * 10_000},
        {"type": "FP32"},
        {"type": "INT64", "raw": bytes(8)},
        {"type": "NONSENSE"},
        {"name": "TEXTS"},
        {"name": ""},
        {"model": ""},
        {"model": "../" + MODEL},
        {"model": f"{MODEL}/../{MODEL}"},
        {"model": "x" * 100_000},
        {"raw": element(b"a" * 2_000_000)},
    ],
    ids=str,
)
def test_tensors_that_lie(channel, changes):
    status, details = call(channel, INFER, request(**changes))
    assert status in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # a refusal that quotes a name too long for a header
    ), details
    assert "a good text" not in details


@pytest.mark.parametrize("rows", [0, 2**32, 2**40])
def test_a_batch_whose_size_is_no_int32(channel, good_vector, rows):
    """Triton 24.10 counts rows in 32 bits: what is there is computed, and nothing else."""
    content = request(shape=[rows, 1]).SerializeToString()
    try:
        answer = service_pb2.ModelInferResponse.FromString(
            channel.unary_unary(INFER)(content, timeout=30)
        )
    except grpc.RpcError as error:
        refused = error.code()
    else:
        refused = None
        place = [output.name for output in answer.outputs].index("EMBEDDING")
        assert answer.raw_output_contents[place] == good_vector.tobytes()
    assert refused in (None, grpc.StatusCode.INVALID_ARGUMENT)


def test_a_version_that_is_none(channel):
    for version in ("2", "-1", "../1", "9" * 5000, "\0"):
        made = request()
        made.model_version = version
        status, details = call(channel, INFER, made)
        assert status in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
                          grpc.StatusCode.UNAVAILABLE), details  # fmt: skip


@pytest.mark.parametrize("name", ["TOKEN_COUNT", "TRUNCATED"])
def test_an_output_of_the_tokenizer_alone_is_not_given(channel, name):
    """docs/protocol.md says so: it is Triton's own."""
    made = request()
    made.outputs.add(name=name)
    status, details = call(channel, INFER, made)
    assert (status, "unexpected deadlock" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    made.outputs.add(name="EMBEDDING")
    assert call(channel, INFER, made)[0] == grpc.StatusCode.OK


def test_tens_of_megabytes_are_refused(channel):
    """Each text is within the limits, all of them together are not."""
    made = request(shape=[300, 1], raw=element(b"a" * 100_000) * 300)
    assert call(channel, INFER, made)[0] == grpc.StatusCode.INVALID_ARGUMENT


def rows(ids, lengths):
    """A request of the encoder's own step, which gateways and embed-corpus use."""
    made = service_pb2.ModelInferRequest(model_name=f"{MODEL}_encoder")
    for name, array in (("INPUT_IDS", ids), ("ROW_LENGTHS", lengths)):
        tensor = made.inputs.add(name=name, datatype="INT32")
        tensor.shape.extend(np.shape(array))
        made.raw_input_contents.append(np.array(array, np.int32).tobytes())
    return made


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [
        ([[-1, 2]], [[2]]),
        ([[2**31 - 1, 2]], [[2]]),
        ([[10_000_000, 2]], [[2]]),
        ([[1, 2]], [[3]]),
        ([[1, 2]], [[0]]),
        ([[1, 2]], [[-1]]),
        ([[1, 2]], [[2**31 - 1]]),
        ([[1, 2], [3, 4]], [[2]]),
        ([[1] * 100_000], [[100_000]]),
    ],
    ids=range(9),
)
def test_rows_of_tokens_that_lie(channel, ids, lengths):
    status, details = call(channel, INFER, rows(ids, lengths))
    assert status == grpc.StatusCode.INVALID_ARGUMENT, details


@pytest.mark.parametrize("port", ["grpc", "http"])
@pytest.mark.parametrize(
    "noise",
    [b"\0" * 1000, b"\xff" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"POST /v2/models HTTP/1.1\r\n" * 50,
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200, b"GET " + b"a" * 200_000],
    ids=range(6),
)  # fmt: skip
def test_noise_for_either_port(server, port, noise):
    url = server.grpc_url if port == "grpc" else server.http_url
    host, number = url.split(":")
    with closing(socket.create_connection((host, int(number)), timeout=10)) as connection:
        try:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except (OSError, TimeoutError):
            pass


def post(server, path, body, **headers):
    host, port = server.http_url.split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
        connection.request("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()


GOOD = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": [TEXT]}]}


@fuzzed(40)
@given(content=st.binary(max_size=300) | damaged_bytes(json.dumps(GOOD).encode()))
def test_noise_for_json(server, content):
    status, _ = post(server, f"/v2/models/{MODEL}/infer", content)
    assert status in (200, 400, 404, 500)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (f"/v2/models/{MODEL}/infer", b"", {}),
        (f"/v2/models/{MODEL}/infer", b"[]", {}),
        (f"/v2/models/{MODEL}/infer", json.dumps(GOOD).encode(),
         {"Inference_Header_Content_Length": "-1"}),
        (f"/v2/models/{MODEL}/infer", json.dumps(GOOD).encode(),
         {"Inference_Header_Content_Length": "99999999999999999999"}),
        (f"/v2/models/{MODEL}/infer", json.dumps(GOOD).encode(),
         {"Inference_Header_Content_Length": "4"}),
        (f"/v2/models/{MODEL}/infer", json.dumps(GOOD).encode(), {"Content_Encoding": "gzip"}),
        (f"/v2/models/{MODEL}/infer", json.dumps(GOOD).replace("[1, 1]", "[-1, 1]").encode(), {}),
        ("/v2/models/..%2f..%2fetc/infer", json.dumps(GOOD).encode(), {}),
        ("/v2/models/../../etc/passwd", b"", {}),
        (f"/v2/models/{'x' * 7000}/infer", json.dumps(GOOD).encode(), {}),
    ],
    ids=range(10),
)  # fmt: skip
def test_http_requests_that_lie(server, path, body, headers):
    status, content = post(server, path, body, **headers)
    assert 400 <= status < 600
    assert b"root:" not in content


def test_parameters_that_are_no_text_are_their_own_requests_error(server, good_vector):
    """Triton's HTTP service passes any bytes on; others' requests are in the same group."""
    body = json.dumps({**GOOD, "parameters": {"service_class": "bulk"}}).encode()
    stop = threading.Event()

    def send_others():
        with EmbeddingClient(server.grpc_url, MODEL) as client:
            while not stop.is_set():
                np.testing.assert_array_equal(client.embed(TEXT, timeout_s=60), good_vector)

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(send_others) for _ in range(8)]
        try:
            for _ in range(50):
                status, content = post(
                    server, f"/v2/models/{MODEL}/infer", body.replace(b"bulk", b"\xff")
                )
                assert status == 400, content
                assert b"parameters cannot be read" in content
        finally:
            stop.set()
        for other in others:
            other.result()


def test_what_nobody_may_call_is_closed(server, channel):
    """Shared memory, loading and unloading, tracing and logging."""
    service = "/inference.GRPCInferenceService/"
    region = service_pb2.SystemSharedMemoryRegisterRequest(
        name="stolen", key="/lasttoken", byte_size=64
    )
    refused = {
        "SystemSharedMemoryRegister": region,
        "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
        "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="x"),
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name=MODEL),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name=MODEL),
        "TraceSetting": service_pb2.TraceSettingRequest(model_name=MODEL),
        "LogSettings": service_pb2.LogSettingsRequest(),
    }
    for method, message in refused.items():
        status, details = call(channel, service + method, message)
        assert status != grpc.StatusCode.OK, method
        assert "restricted" in details or "explicit model" in details, (method, details)
    for path in (
        "/v2/systemsharedmemory/region/stolen/register",
        f"/v2/repository/models/{MODEL}/unload",
        f"/v2/repository/models/{MODEL}/load",
        "/v2/trace/setting",
        "/v2/logging",
    ):
        status, content = post(server, path, b"{}")
        assert status in (400, 403, 503), (path, status, content)
        assert b"restricted" in content or b"explicit model" in content, (path, content)
    # A file of the caller's making is no model: loading by override is refused with the rest.
    override = service_pb2.RepositoryModelLoadRequest(model_name="new")
    override.parameters["file:1/model.py"].bytes_param = b"import os"
    override.parameters["config"].string_param = "{}"
    assert call(channel, service + "RepositoryModelLoad", override)[0] != grpc.StatusCode.OK
