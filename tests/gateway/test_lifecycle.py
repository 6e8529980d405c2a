"""Callers that go, gateways that stop, TLS."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from conftest import MODEL
from gateway.gateway_process import GatewayProcess
from lasttoken_perf.served import read_metrics

pytestmark = pytest.mark.server

WORDS = "several words of some text " * 12


def send(url, payload):
    """Send a request over a bare socket, which the caller closes when it likes."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(payload).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + body)
    return connection


def test_the_work_of_a_caller_who_has_gone_is_not_computed(gateway, smollm2_server):
    def counts():
        rows = read_metrics(smollm2_server.metrics_url)["lasttoken_encoder_rows_total"]
        cancelled = read_metrics(smollm2_server.metrics_url, 'reason="cancelled"').get(
            "lasttoken_encoder_refused_total", 0
        )
        return rows, cancelled

    rows, cancelled = counts()
    gone = gateway.metric("lasttoken_gateway_disconnects_total")
    payload = {"model": MODEL, "input": [f"{number} {WORDS}" for number in range(100)]}
    deadline = time.monotonic() + 60
    with send(gateway.url, payload):
        while counts()[0] == rows:  # until the first batch is done
            assert time.monotonic() < deadline
            time.sleep(0.05)
    while gateway.metric("lasttoken_gateway_disconnects_total") != gone + 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert gateway.metric("lasttoken_gateway_in_flight_requests") == 0
    while counts()[1] == cancelled:  # as soon as the batch that was being computed is done
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # The queue works on for whoever is left; of the 100 rows the rest is not computed.
    httpx.post(f"{gateway.url}/v1/embeddings", json=payload | {"input": "next"}, timeout=60)
    assert counts()[0] - rows < 80
    event = [event for event in gateway.events() if event.get("status") == 499][-1]
    assert (event["error"], event["texts"]) == ("disconnected", 100)


def listens(url):
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_sigterm_answers_what_is_in_flight_and_says_not_ready_first(toy_server, tmp_path):
    log = tmp_path / "log"
    with GatewayProcess(toy_server.grpc_url, log, "--drain-delay", "5") as gateway:
        url = f"{gateway.url}/v1/embeddings"
        slow = {"model": "toy_embedder", "input": "SLEEP 9"}
        httpx.get(f"{gateway.url}/ready", timeout=30).raise_for_status()
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(httpx.post, url, json=slow, timeout=60) for _ in range(3)]
            deadline = time.monotonic() + 20
            while gateway.metric("lasttoken_gateway_in_flight_requests") < 3:
                assert time.monotonic() < deadline
            gateway.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 3
            while (ready := httpx.get(f"{gateway.url}/ready", timeout=30)).status_code == 200:
                assert time.monotonic() < deadline
            assert (ready.status_code, ready.json()["error"]["code"]) == (503, "shutting_down")
            late = httpx.post(url, json=slow | {"input": "x"}, timeout=60)
            assert late.status_code == 200  # the port is open until the delay is over
            assert not any(future.done() for future in futures)
            for future in futures:
                answer = future.result()
                assert answer.status_code == 200
                assert len(answer.json()["data"][0]["embedding"]) == 8
        assert gateway.process.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(gateway.url)
        assert gateway.events()[-1]["event"] == "stopped"


@pytest.mark.parametrize("stop", ["two signals", "drain timeout"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed"])
def test_a_request_that_a_stop_cuts_short_is_told_so(toy_server, tmp_path, stop, path):
    """As Ctrl-C twice, and as a request that takes longer than draining may."""
    payload = {"input": "SLEEP 8"} if path == "/v1/embeddings" else {"inputs": "SLEEP 8"}
    options = ("--default-model", "toy_embedder", "--drain-timeout", "1")
    if stop == "two signals":
        options = options[:2]
    with GatewayProcess(toy_server.grpc_url, tmp_path / "log", *options) as gateway:
        headers = {"x-request-id": "cut-short"}
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(
                httpx.post, f"{gateway.url}{path}", json=payload, headers=headers, timeout=60
            )
            deadline = time.monotonic() + 20
            while gateway.metric("lasttoken_gateway_in_flight_requests") < 1:
                assert time.monotonic() < deadline
            gateway.process.send_signal(signal.SIGINT)
            if stop == "two signals":  # of which two may count as one, if it sees them together
                while listens(gateway.url):
                    assert time.monotonic() < deadline
                gateway.process.send_signal(signal.SIGINT)
            answer = future.result()
        assert answer.status_code == 503
        assert "shutting down" in answer.text
        assert answer.headers["retry-after"] == "1"
        assert gateway.process.wait(20) == 130
        event = gateway.event_of("cut-short")
        assert (event["status"], event["error"]) == (503, "shutting_down")
        log = gateway.log.read_text()
        assert "Exception in" not in log
        assert "Traceback" not in log


def test_no_more_work_is_taken_than_is_said(small_server, tmp_path):
    log = tmp_path / "log"
    with GatewayProcess(small_server.grpc_url, log, "--max-in-flight", "1") as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            deadline = time.monotonic() + 10
            while gateway.metric("lasttoken_gateway_in_flight_requests") < 1:
                assert time.monotonic() < deadline
            answer = httpx.post(f"{gateway.url}/embed", json={"inputs": "x"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        payload = {"model": "short", "input": "x"}
        deadline = time.monotonic() + 10
        while httpx.post(f"{gateway.url}/v1/embeddings", json=payload).status_code != 200:
            assert time.monotonic() < deadline


def test_a_caller_that_does_not_finish_its_request_gives_up_its_place(small_server, tmp_path):
    log = tmp_path / "log"
    options = ("--max-in-flight", "1", "--body-timeout", "0.5")
    with GatewayProcess(small_server.grpc_url, log, *options) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            answer = b"".join(iter(lambda: slow.recv(4096), b""))  # until the gateway hangs up
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
        payload = {"model": "short", "input": "x"}
        answer = httpx.post(f"{gateway.url}/v1/embeddings", json=payload, timeout=30)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "begun", [b"", b"POST /v1/embeddings HT", b"GET /health HTTP/1.1\r\nHost:"]
)
def test_a_caller_that_sends_no_head_is_hung_up_on(small_server, tmp_path, begun):
    log = tmp_path / "log"
    with GatewayProcess(small_server.grpc_url, log, "--body-timeout", "0.5") as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            started_s = time.monotonic()
            if begun:  # a second request of the connection is held to it too
                slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                assert slow.recv(4096).startswith(b"HTTP/1.1 200")
                started_s = time.monotonic()
                slow.sendall(begun)
            while slow.recv(4096):
                pass
            assert 0.3 < time.monotonic() - started_s < 4  # uvicorn's own, when idle, is 5 s
        with httpx.Client(base_url=gateway.url) as client:  # one connection, used for longer
            for _ in range(4):
                assert client.get("/health").status_code == 200
                time.sleep(0.3)


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificate(folder, name, *options):
    key, file = folder / f"{name}.key", folder / f"{name}.pem"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-keyout", str(key), "-out", str(file), "-subj", f"/CN={name}",
        "-addext", "subjectAltName=IP:127.0.0.1", *options,
    )  # fmt: skip
    return key, file


def test_tls_with_and_without_a_callers_certificate(small_server, tmp_path):
    key, file = certificate(tmp_path, "server")
    caller_key, caller_file = certificate(tmp_path, "caller")
    trusted = ssl.create_default_context(cafile=str(file))
    options = ("--tls-certificate", str(file), "--tls-key", str(key))
    with GatewayProcess(small_server.grpc_url, tmp_path / "log", *options) as gateway:
        assert gateway.url.startswith("https://")
        assert httpx.get(f"{gateway.url}/health", verify=trusted).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{gateway.url}/health")
    options += ("--tls-client-ca", str(caller_file))
    with GatewayProcess(small_server.grpc_url, tmp_path / "log2", *options) as gateway:
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            httpx.get(f"{gateway.url}/health", verify=trusted)
        trusted.load_cert_chain(caller_file, caller_key)
        assert httpx.get(f"{gateway.url}/health", verify=trusted).status_code == 200


def test_many_callers_at_once_get_their_own_vectors(gateway, http):
    texts = [f"text number {number}" for number in range(24)]
    alone = {
        text: http.post("/v1/embeddings", json={"model": MODEL, "input": text}).json()["data"]
        for text in texts
    }
    wrong = []

    def call(text):
        answer = httpx.post(
            f"{gateway.url}/v1/embeddings", json={"model": MODEL, "input": text}, timeout=60
        )
        if answer.json()["data"] != alone[text]:
            wrong.append(text)

    threads = [threading.Thread(target=call, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
