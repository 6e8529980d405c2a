"""Statuses, limits, logs and metrics of the gateway, over plain HTTP."""

from __future__ import annotations

import json
import re
import socket
import time

import httpx
import pytest

from conftest import MODEL
from gateway.gateway_process import GatewayProcess
from lasttoken.gateway.exchange import _REQUEST_ID

pytestmark = pytest.mark.server

ALICE = "alice-secret-0123456789"
BOB = "bob-secret-0123456789ab"


def ask(url, text="x", model=MODEL, key=None, **kwargs):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    payload = {"model": model, "input": text}
    return httpx.post(f"{url}/v1/embeddings", json=payload, headers=headers, timeout=30, **kwargs)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b'{"model": "m", "input": "\xff"}', 400, "not JSON|UTF-8"),
        (b"[]", 400, "Expected `object`"),
        (b'{"model": "m"}', 400, "required field `input`"),
        (b'{"model": "", "input": "x"}', 400, "length >= 1"),
        (b'{"model": 5, "input": "x"}', 400, "Expected `str | null`"),
        (b'{"model": "m", "input": "x", "prompt": "y"}', 400, "unknown field `prompt`"),
        (b'{"model": "m", "input": ["x", 1]}', 400, "mixes texts and token ids"),
        (b'{"model": "m", "input": [["x"]]}', 400, "Expected `int`"),
        (b'{"model": "m", "input": [-1]}', 400, ">= 0"),
        (b'{"model": "m", "input": "x", "encoding_format": "hex"}', 400, "'hex'"),
        (b'{"model": "m", "input": "x", "dimensions": 1.5}', 400, "Expected `int"),
        (b'{"model": "m", "input": "x", "priority": "now"}', 400, "'now'"),
        (b'{"model": "m", "input": "x", "input_type": "now"}', 400, "use one of"),
        (b'{"model": "m:x", "input": "x"}', 404, "does not exist"),
    ],
)
def test_bad_requests_say_what_is_wrong(http, body, status, words):
    answer = http.post("/v1/embeddings", content=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert re.search(words, error["message"])
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_half_of_a_surrogate_pair_is_refused_not_failed_on(http):
    body = b'{"model": "' + MODEL.encode() + b'", "input": "\\ud800"}'
    assert http.post("/v1/embeddings", content=body).status_code == 400


@pytest.mark.parametrize(
    ("text", "half"),
    [
        (rb"\ud800", rb"\ud800"),
        (rb"\uDC00 low", rb"\uDC00"),
        (rb"\ud83d\ude00 a pair, then \ud83d", rb"\ud83d"),
        (rb"\\\udfff behind a backslash", rb"\udfff"),
    ],
)
def test_half_of_a_surrogate_pair_is_named_as_such(http, text, half):
    answer = http.post("/v1/embeddings", content=b'{"input": "' + text + b'"}')
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert f"holds {half.decode()}, an unpaired surrogate and no character" in message
    for whole in (rb"\ud83d\ude00", rb"\\ud800"):  # a pair; letters behind a backslash
        assert http.post("/v1/embeddings", content=b'{"input": "%b"}' % whole).status_code == 200
        cut_off = http.post("/v1/embeddings", content=b'{"input": "%b' % whole)
        assert "is not JSON" in cut_off.json()["error"]["message"]


def test_null_is_a_field_left_out(http):
    nothing = dict.fromkeys(
        ("encoding_format", "dimensions", "user", "prompt_name", "input_type", "instruction",
         "truncate", "priority", "model")
    )  # fmt: skip
    given = http.post("/v1/embeddings", json={"input": "x", **nothing})
    assert given.status_code == 200, given.text
    assert given.json() == http.post("/v1/embeddings", json={"input": "x"}).json()


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/api/embed", {"input": "x"}),
        ("/v2/embed", {"texts": ["x"], "input_type": "search_query"}),
    ],
)
def test_a_request_may_leave_out_the_only_model(http, path, payload):
    answer = http.post(path, json=payload)
    assert answer.status_code == 200, answer.text
    assert answer.json().get("model", MODEL) == MODEL


def test_unknown_routes_and_methods(http):
    assert http.get("/v3/nope").json()["error"]["code"] == "unknown_url"
    answer = http.get("/v1/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("BAD INPUT", 400, "invalid_value"),
        ("INTERNAL", 502, "upstream_error"),
        ("SLEEP 3", 504, "timeout"),
    ],
)
def test_what_the_server_says_becomes_a_status(toy_gateway, text, status, code):
    answer = ask(toy_gateway.url, text, "toy_embedder")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("as asked" in answer.text) == (status == 400)  # the inside of a server is not shown
    event = toy_gateway.event_of(answer.headers["x-request-id"])
    assert event["error"] == code
    if status >= 500:
        assert event["cause"].split()[0] in ("ServerError", "DeadlineExceeded")


def test_an_overloaded_server_is_asked_again(toy_gateway):
    assert ask(toy_gateway.url, "OVERLOADED TWICE", "toy_embedder").status_code == 200


def test_a_server_that_is_away(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{taken.getsockname()[1]}"
        with GatewayProcess(nowhere, tmp_path / "log", "--timeout", "1") as gateway:
            answer = ask(gateway.url)
            assert answer.status_code in (503, 504)
            assert nowhere not in answer.text
            ready = httpx.get(f"{gateway.url}/ready", timeout=30)
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "5")
            assert httpx.get(f"{gateway.url}/health").status_code == 200
            assert gateway.metric("lasttoken_gateway_upstream_errors_total") >= 1


def test_a_model_without_a_card_takes_texts_only(toy_gateway):
    answer = ask(toy_gateway.url, [5, 6], "toy_embedder")
    assert answer.status_code == 400
    assert "takes no token ids" in answer.json()["error"]["message"]
    assert ask(toy_gateway.url, "text", "toy_embedder:query").status_code == 200


def test_a_path_with_a_slash_behind_it_is_not_redirected(small_gateway):
    answer = httpx.post(f"{small_gateway.url}/v1/embeddings/", json={"input": "x"})
    assert answer.status_code == 404
    assert "there is no POST /v1/embeddings/" in answer.json()["error"]["message"]


def test_ready_makes_a_real_inference_and_keeps_it_for_a_moment(small_gateway, small_server):
    def rows():
        text = httpx.get(small_server.metrics_url).text
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("lasttoken_encoder_rows_total")
        )

    time.sleep(5.1)  # an earlier answer has run out
    before = rows()
    for _ in range(5):
        assert httpx.get(f"{small_gateway.url}/ready").json() == {"status": "ready"}
    deadline = time.monotonic() + 5
    while rows() < before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rows() == before + 2  # two models, once


def test_keys_limits_and_logs(smollm2_server, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"alice {ALICE}\nbob {BOB} requests=3 texts=8 tokens=10000\n")
    secret_text = "a text that no log may hold"
    options = ("--key-file", str(keys), "--max-body-bytes", "2000", "--max-texts", "5")
    with GatewayProcess(smollm2_server.grpc_url, tmp_path / "log", *options) as gateway:
        for key in (None, "nope", ALICE[:-1]):
            answer = ask(gateway.url, key=key)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 401
        assert httpx.get(f"{gateway.url}/info").status_code == 401
        document = httpx.get(f"{gateway.url}/openapi.json").json()
        assert document["paths"]["/v1/embeddings"]["post"]["security"] == [{"key": []}]
        for path in ("/health", "/ready", "/metrics", "/openapi.json"):
            assert httpx.get(gateway.url + path, timeout=30).status_code == 200, path
        answer = ask(gateway.url, [secret_text, "two"], key=ALICE)
        assert answer.status_code == 200
        event = gateway.event_of(answer.headers["x-request-id"])
        tokens = answer.json()["usage"]["total_tokens"]
        assert (event["key"], event["model"], event["texts"]) == ("alice", MODEL, 2)
        assert (event["status"], event["tokens"]) == (200, tokens)
        assert 0 < event["upstream_s"] < event["seconds"]

        assert ask(gateway.url, ["x"] * 6, key=ALICE).status_code == 422
        assert ask(gateway.url, "x" * 3000, key=ALICE).status_code == 413

        def chunks():
            yield b'{"model": "m", "input": "'
            for _ in range(50):
                yield b"x" * 100
            yield b'"}'

        streamed = httpx.post(
            f"{gateway.url}/v1/embeddings",
            content=chunks(),
            headers={"authorization": f"Bearer {ALICE}"},
        )
        assert (streamed.status_code, streamed.json()["error"]["code"]) == (
            413,
            "request_too_large",
        )

        first = ask(gateway.url, ["x"] * 5, key=BOB)
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-texts"] == "3"
        assert 0 < int(first.headers["x-ratelimit-remaining-tokens"]) < 10000
        second = ask(gateway.url, ["x"] * 5, key=BOB)
        assert second.status_code == 429
        assert 1 <= int(second.headers["retry-after"]) <= 15
        assert second.json()["error"]["type"] == "rate_limit_error"
        assert "8 texts a minute" in second.json()["error"]["message"]
        assert [ask(gateway.url, key=BOB).status_code for _ in range(2)] == [200, 429]
        assert gateway.metric("lasttoken_gateway_rate_limited_total", key="bob", limit="texts") == 1
        assert (
            gateway.metric("lasttoken_gateway_rate_limited_total", key="bob", limit="requests") == 1
        )
        assert ask(gateway.url, key=ALICE).status_code == 200

        replacement = tmp_path / "new"
        replacement.write_text(f"carol {'c' * 20}\n")
        replacement.replace(keys)
        deadline = time.monotonic() + 10
        while ask(gateway.url, key="c" * 20).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask(gateway.url, key=ALICE).status_code == 401
        keys.write_text("broken\n")
        time.sleep(1.2)
        assert ask(gateway.url, key="c" * 20).status_code == 200
        assert gateway.metric("lasttoken_gateway_key_reloads_total", outcome="failed") == 1
        log = gateway.log.read_text()
    for secret in (secret_text, ALICE, BOB, "c" * 20):
        assert secret not in log
    assert {json.loads(line)["event"] for line in log.splitlines()} >= {
        "serving", "request", "keys_reloaded", "keys_not_reloaded",
    }  # fmt: skip


def test_request_ids_are_the_callers_when_they_are_sane(http):
    given = {"x-request-id": "abc-123"}
    assert http.get("/health", headers=given).headers["x-request-id"] == "abc-123"
    for wrong in ("a b", "x" * 200, ""):
        answered = http.get("/health", headers={"x-request-id": wrong}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", answered)


def test_what_is_not_http_has_no_id(gateway, pytestconfig):
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"nonsense\r\nx-request-id: abc\r\n\r\n")
        head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id" not in head.lower()
    page = (pytestconfig.rootpath / "docs" / "openai.md").read_text()
    assert f"`{_REQUEST_ID.pattern}`" in page


def test_metrics_count_what_was_done_and_every_one_is_documented(gateway, http, pytestconfig):
    name = "lasttoken_gateway_texts_total"
    before = gateway.metric(name, model=MODEL)
    tokens = gateway.metric("lasttoken_gateway_tokens_total", model=MODEL)
    answer = ask(gateway.url, ["one", "two", "three"])
    assert gateway.metric(name, model=MODEL) == before + 3
    used = answer.json()["usage"]["total_tokens"]
    assert gateway.metric("lasttoken_gateway_tokens_total", model=MODEL) == tokens + used
    assert gateway.metric("lasttoken_gateway_in_flight_requests") == 0
    # Also of a model whose texts were all whole: the first that is cut shall be an increase.
    cut = f'lasttoken_gateway_truncated_texts_total{{model="{MODEL}"}}'
    assert cut in http.get("/metrics").text
    assert (
        gateway.metric("lasttoken_gateway_requests_total", route="/v1/embeddings", status="200") > 0
    )
    page = (pytestconfig.rootpath / "docs" / "openai.md").read_text()
    served = set(re.findall(r"^# TYPE (lasttoken_\w+)", http.get("/metrics").text, re.MULTILINE))
    assert len(served) >= 11
    assert {name for name in served if f"`{name}" not in page} == set()
