"""Callers who send a head without an end, or do not read their answer; it takes no Triton."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from lasttoken.gateway.connection_limits import MAX_HEAD_BYTES, with_limits

PIECE, PIECES = b"x" * 300_000, 60
"""More than the system keeps for a connection."""


class Server:
    """uvicorn in a thread, with an application that counts whom it is answering."""

    def __init__(self, timeout_s: float) -> None:
        self.answering = 0
        config = uvicorn.Config(
            self._app, http=with_limits(timeout_s), log_config=None, lifespan="off", ws="none",
            interface="asgi3",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._server.serve([self._listener]),), daemon=True
        )

    async def _app(self, scope, receive, send):
        if scope["method"] == "POST":
            while (await receive())["more_body"]:
                pass
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"read"})
            return
        self.answering += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(PIECES):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.answering -= 1

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()


def ask(address, *, buffer_bytes):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    connection.settimeout(20)
    connection.connect(address)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return connection


def received_of(connection, *, wait_s=0.0):
    """Bytes until the server hangs up, with a wait behind each megabyte."""
    received = waited = 0
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(1 << 20):
            received += len(data)
            if received - waited > 1 << 20:
                waited = received
                time.sleep(wait_s)
    return received


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_caller_who_does_not_read_the_answer_is_hung_up_on():
    with Server(timeout_s=0.5) as server, ask(server.address, buffer_bytes=4096) as connection:
        wait_until(lambda: server.answering == 1)
        wait_until(lambda: server.answering == 0)  # and what is left of the answer is let go
        assert received_of(connection) < PIECES * len(PIECE)


def test_a_caller_who_reads_slowly_gets_all_of_the_answer():
    begun = time.monotonic()
    with Server(timeout_s=1.0) as server, ask(server.address, buffer_bytes=1 << 20) as connection:
        assert received_of(connection, wait_s=0.2) > PIECES * len(PIECE)
    assert time.monotonic() - begun > 1.5


def connected(address):
    connection = socket.create_connection(address)
    connection.settimeout(20)
    return connection


@pytest.mark.parametrize(
    ("begun", "endless"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: ", b"x" * 65536),
        (b"POST / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 10_000),
        (b"POST /", b"x" * 65536),
        (b"", b"\r\n" * 30_000),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
         b"A: b\r\n" * 10_000),
    ],
    ids=["value", "headers", "path", "nothing", "trailers"],
)  # fmt: skip
def test_a_head_without_an_end_is_refused(begun, endless):
    with Server(timeout_s=20) as server, connected(server.address) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):  # it hangs up
            connection.sendall(begun)
            while sent < 300 * MAX_HEAD_BYTES:
                connection.sendall(endless)
                sent += len(endless)
        assert sent < 300 * MAX_HEAD_BYTES


def test_a_large_head_and_the_next_one_behind_a_large_body_are_taken():
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 50_000 + b"\r\nContent-Length: "
    body = b"y" * (32 * MAX_HEAD_BYTES)
    first = head + str(len(body)).encode() + b"\r\n\r\n" + body
    with Server(timeout_s=20) as server, connected(server.address) as connection:
        connection.sendall(first + head)  # the next one is not complete yet
        time.sleep(0.2)
        connection.sendall(b"1\r\nConnection: close\r\n\r\nz")
        answers = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answers.count(b"HTTP/1.1 200 ") == 2
