"""Callers that misbehave: they hang, vanish, or write and read as slowly as they can."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time

from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.faults.http_callers import openai_load
from lasttoken_perf.faults.stage import AFTER, BEFORE, RECOVERY_S, Finding, Stage, finding_of
from lasttoken_perf.gateway_process import gateway_process

_SLOW_WRITERS, _SLOW_READERS = 100, 8
_BODY_TIMEOUT_S = 5


def vanished_clients(stage: Stage) -> Finding:
    """Callers that send half a message and hang, or vanish in the middle of a request."""
    with stage.server() as server, stage.load(server.grpc_url) as load:
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        harmed_s = time.monotonic()
        host, _, port = server.grpc_url.rpartition(":")
        hanging = []
        for _ in range(50):
            connection = socket.create_connection((host, int(port)), timeout=10)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x10\x01")  # half a frame
            hanging.append(connection)
        vanishing = [
            threading.Thread(target=_vanish, args=(server.grpc_url, stage.model)) for _ in range(8)
        ]
        for thread in vanishing:
            thread.start()
        for thread in vanishing:
            thread.join(60)
        load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
        for connection in hanging:
            connection.close()
    fault = "50 callers that hang in half a message, 8 that vanish in mid-request"
    return finding_of(fault, load, harmed_s=harmed_s)


def stopped_clients(stage: Stage) -> Finding:
    """Callers that are stopped (SIGSTOP) when their answers come, and go on later."""
    with stage.server() as server, stage.load(server.grpc_url) as load:
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        harmed_s = time.monotonic()
        slow = [_caller(server.grpc_url, stage.model, words=3, texts=64) for _ in range(4)]
        for process in slow:
            _wait_for_line(process)
            process.send_signal(signal.SIGSTOP)
        load.wait_for_right(AFTER, after_s=time.monotonic(), timeout_s=RECOVERY_S)
        for process in slow:
            process.send_signal(signal.SIGCONT)
        told = [process.communicate(timeout=RECOVERY_S)[0] for process in slow]
    if any("rows 64" not in words for words in told):
        raise WrongAnswer(f"callers that were stopped got no answer later: {told}")
    fault = "4 slow readers: callers that are stopped (SIGSTOP) while 64 vectors each come"
    seen = "the slow ones get all their vectors when they go on"
    return finding_of(fault, load, harmed_s=harmed_s, seen=seen)


def slow_http_callers(stage: Stage) -> Finding:
    """Callers of the gateway that never finish their request, or never read their answer."""
    with (
        stage.server() as server,
        gateway_process(server.grpc_url, "--body-timeout", str(_BODY_TIMEOUT_S)) as gateway,
        openai_load(stage, [gateway.url], retries=0) as load,
    ):
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        harmed_s = time.monotonic()
        writers = [_begin_post(gateway.url, b"{", 9000) for _ in range(_SLOW_WRITERS)]
        # An answer of numbers, larger than the buffers on its way; little to compute, and as bulk.
        wanted = json.dumps({"model": stage.model, "input": ["short"] * 64, "priority": "bulk",
                             "encoding_format": "float"}).encode()  # fmt: skip
        readers = [_begin_post(gateway.url, wanted, len(wanted)) for _ in range(_SLOW_READERS)]
        load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
        answers = {_answer(connection, _BODY_TIMEOUT_S + 30.0)[:12] for connection in writers}
        for connection in (*writers, *readers):
            connection.close()
    if answers != {b"HTTP/1.1 408"}:
        raise WrongAnswer(f"slow writers were not refused with 408 but got {answers}")
    fault = (
        f"{_SLOW_WRITERS} callers of the gateway that stop in mid-request, "
        f"{_SLOW_READERS} that do not read their answer"
    )
    seen = f"the slow writers get a 408 after --body-timeout {_BODY_TIMEOUT_S}"
    return finding_of(fault, load, harmed_s=harmed_s, seen=seen)


def _begin_post(url: str, body: bytes, length: int) -> socket.socket:
    host, _, port = url.rpartition("/")[2].rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def _answer(connection: socket.socket, timeout_s: float) -> bytes:
    connection.settimeout(timeout_s)
    try:
        return connection.recv(4096)
    except TimeoutError:
        return b"no answer"


def _caller(url: str, model: str, *, words: int, texts: int) -> subprocess.Popen[str]:
    """A process that says ``ready``, embeds so many texts and says how many vectors it has."""
    script = (
        "import sys; from lasttoken import EmbeddingClient;"
        "client = EmbeddingClient(sys.argv[1], sys.argv[2]);"
        "texts = ['word ' * int(sys.argv[3])] * int(sys.argv[4]);"
        "client.embed('ready'); print('ready', flush=True);"
        "print('rows', len(client.embed(texts, priority='bulk', timeout_s=600)))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, url, model, str(words), str(texts)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)  # its requests are on their way


def _vanish(url: str, model: str) -> None:
    """Send a request in a process of its own and kill that at once."""
    process = _caller(url, model, words=400, texts=32)
    _wait_for_line(process)
    process.kill()
    process.wait(30)
