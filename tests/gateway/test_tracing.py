"""One trace from the caller through the gateway to Triton, taken in by a real OTLP collector."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import time

import httpx
import pytest
from opentelemetry import propagate
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace import TracerProvider

from gateway.gateway_process import GatewayProcess
from lasttoken import EmbeddingClient, InvalidInput
from lasttoken.local import LocalTriton
from lasttoken.local.trace_arguments import trace_arguments
from server.toy_repository import MODEL, write_toy_repository

SECRET = "a text that no span may hold"
TRIES = 8
"""Triton 24.10 now and then sends nothing of a request (seen in two of about twenty)."""


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans in by OTLP over HTTP, as protobuf or as JSON."""

    def __init__(self):
        self.spans, self.bodies = [], []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def wait_for(self, found, seconds=20.0):
        """The spans that a function picks, as soon as it picks any."""
        deadline = time.monotonic() + seconds
        while not (picked := [span for span in list(self.spans) if found(span)]):
            assert time.monotonic() < deadline, self.spans
            time.sleep(0.05)
        return picked


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.server.bodies.append(body)
        is_json = "json" in self.headers["Content-Type"]
        self.server.spans.extend(of_json(body) if is_json else of_protobuf(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


def of_protobuf(body):
    message = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    for group in message.resource_spans:
        names = {a.key: a.value.string_value for a in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                yield {
                    "service": names["service.name"], "name": span.name,
                    "trace": span.trace_id.hex(), "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "attributes": {
                        a.key: a.value.string_value or a.value.int_value for a in span.attributes
                    },
                }  # fmt: skip


def of_json(body):
    for group in json.loads(body)["resourceSpans"]:
        names = {a["key"]: a["value"].get("stringValue") for a in group["resource"]["attributes"]}
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                yield {
                    "service": names["service.name"], "name": span["name"],
                    "trace": span["traceId"], "id": span["spanId"],
                    "parent": span.get("parentSpanId", ""), "attributes": {},
                }  # fmt: skip


@pytest.fixture(scope="module")
def collector():
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def traced_triton(collector, tmp_path_factory):
    folder = write_toy_repository(tmp_path_factory.mktemp("traced") / "repository")
    with LocalTriton(folder, otlp_endpoint=collector.url) as server:
        yield server


def callers_span():
    tracer = TracerProvider().get_tracer("caller")
    return tracer.start_as_current_span("caller")


def ids(span):
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def below(collector, trace_id, span_id):
    """Triton's root spans below a span; none if it has sent none of that trace."""
    try:
        return collector.wait_for(
            lambda s: (
                (s["service"], s["trace"], s["parent"]) == ("lasttoken-triton", trace_id, span_id)
            ),
            seconds=6.0,
        )
    except AssertionError:
        return []


@pytest.mark.server
def test_one_trace_from_the_caller_to_the_models(collector, traced_triton, tmp_path):
    options = ("--otlp-endpoint", collector.url)
    with GatewayProcess(traced_triton.grpc_url, tmp_path / "log", *options) as gateway:
        assert httpx.get(f"{gateway.url}/health").status_code == 200
        for _ in range(TRIES):
            with callers_span() as span:
                trace_id, span_id = ids(span)
                headers: dict[str, str] = {}
                propagate.inject(headers)
                payload = {"model": MODEL, "input": SECRET}
                answer = httpx.post(f"{gateway.url}/v1/embeddings", json=payload, headers=headers)
            assert answer.status_code == 200, answer.text
            [ours] = collector.wait_for(
                lambda s, trace_id=trace_id: (
                    (s["service"], s["trace"]) == ("lasttoken-gateway", trace_id)
                )
            )
            # Triton's root spans stand below the gateway's: the tokenizer's call, the encoder's.
            if roots := below(collector, trace_id, ours["id"]):
                break
    assert roots
    assert (ours["name"], ours["parent"]) == ("POST /v1/embeddings", span_id)
    assert ours["attributes"]["http.response.status_code"] == 200
    assert ours["attributes"]["lasttoken.model"] == MODEL
    assert ours["attributes"]["lasttoken.texts"] == 1
    assert ours["attributes"]["lasttoken.request_id"] == answer.headers["x-request-id"]
    names = {s["name"] for s in collector.spans if s["trace"] == trace_id}
    assert names & {f"{MODEL}_encoder", f"{MODEL}_tokenizer"}
    assert not [s for s in collector.spans if s["name"].endswith("/health")]
    assert not any(SECRET.encode() in body for body in collector.bodies)


@pytest.mark.server
def test_a_client_that_asks_triton_itself(collector, traced_triton):
    for _ in range(TRIES):
        with EmbeddingClient(traced_triton.grpc_url, MODEL) as client, callers_span() as span:
            client.embed("x")
        if below(collector, *ids(span)):
            break
    else:
        pytest.fail(f"Triton sent no span of {TRIES} traces")
    names = {s["name"] for s in collector.spans if s["trace"] == ids(span)[0]}
    assert {MODEL, f"{MODEL}_encoder", f"{MODEL}_tokenizer"} <= names


@pytest.mark.parametrize(
    ("endpoint", "rate", "words"),
    [("collector:4318", 1, "write http://HOST:4318"), ("http://c:4318", 0, "trace_rate is 0")],
)
def test_settings_that_cannot_work(tmp_path, endpoint, rate, words):
    with pytest.raises(InvalidInput, match=words):
        LocalTriton(tmp_path, otlp_endpoint=endpoint, trace_rate=rate)


def test_without_a_collector_nothing_is_traced():
    assert trace_arguments(None, 1) == []
