"""A peer that is a server of OpenAI's embeddings interface: Infinity, vLLM, llama.cpp's."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
from numpy.typing import NDArray

from lasttoken.local.ports import free_ports
from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.peers.process import PeerRun

_HOST = "127.0.0.1"
_READY_TIMEOUT_S = 600.0
_CALL_TIMEOUT_S = 600.0


class HttpPeer:
    """Starts a server and sends it texts, each client on a connection of its own.

    Between its runs its processes are stopped: vLLM's take most of a core while nothing is asked,
    from whoever has his turn.

    Args:
        name: For messages and the log's name.
        command: Command line; ``{port}`` stands for the port.
        variables: Environment variables.
        folder: Folder of its log.
        path: Of the embeddings route, such as ``/v1/embeddings``.
        model: Name of the model in requests.
        version: The server's version.
        fields: Of a request beside the model and the texts: vectors as ``base64`` where the server
            offers that, which costs it less than ``float``.
        forget_path: Route that is posted to before every run, so that it has to embed texts that it
            has had before; None for none.

    Raises:
        PeerFailed: It ended, or did not answer in time.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        variables: Mapping[str, str],
        folder: Path,
        path: str,
        model: str,
        version: str,
        fields: Mapping[str, Any],
        forget_path: str | None = None,
    ) -> None:
        self._name, self._path, self._forget_path = name, path, forget_path
        self._body = {"model": model, **fields}
        self.version = version
        [self._port] = free_ports(_HOST, 1)
        self._log_file = folder / f"{name.replace(' ', '-')}.log"
        with self._log_file.open("w") as log:
            self._process = subprocess.Popen(
                [part.replace("{port}", str(self._port)) for part in command],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(variables),
            )
        try:
            self._wait_until_ready()
        except PeerFailed:
            self.close()
            raise
        self._signal_all("suspend")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def one_by_one(self, texts: Sequence[str], *, clients: int) -> PeerRun:
        """Embed one text a request, ``clients`` requests at a time (closed loop)."""
        return self._requests([[text] for text in texts], clients)

    def lists(self, texts: Sequence[str], *, size: int, clients: int) -> PeerRun:
        """Embed lists of ``size`` texts, ``clients`` requests at a time."""
        groups = [list(texts[i : i + size]) for i in range(0, len(texts), size)]
        return self._requests(groups, clients)

    def _requests(self, groups: list[list[str]], clients: int) -> PeerRun:
        with self._awake():
            return self._run(groups, clients)

    def _run(self, groups: list[list[str]], clients: int) -> PeerRun:
        self._forget()
        pending = iter(enumerate(groups))
        take = threading.Lock()
        answers: dict[int, NDArray[np.float32]] = {}
        latency_ms: list[float] = []
        failures: list[Exception] = []

        def client() -> None:
            connection = http.client.HTTPConnection(_HOST, self._port, timeout=_CALL_TIMEOUT_S)
            try:
                while not failures:
                    with take:
                        found = next(pending, None)
                    if found is None:
                        return
                    index, group = found
                    sent_s = time.perf_counter()
                    answers[index] = self._embed(connection, group)
                    latency_ms.append(1000 * (time.perf_counter() - sent_s))
            except (OSError, ValueError, KeyError, http.client.HTTPException, PeerFailed) as error:
                failures.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=client) for _ in range(min(clients, len(groups)))]
        started_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started_s
        if failures:
            raise PeerFailed(f"{self._name}: {failures[0]!r}\n{self._tail()}")
        vectors = np.concatenate([answers[index] for index in range(len(groups))])
        return PeerRun(seconds=seconds, vectors=vectors, latency_ms=tuple(latency_ms))

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self._signal_all("resume")
        try:
            yield
        finally:
            self._signal_all("suspend")

    def _signal_all(self, what: str) -> None:
        """Suspend or resume the process and its children, those that are left."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    getattr(each, what)()

    def _forget(self) -> None:
        if self._forget_path is None:
            return
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=_CALL_TIMEOUT_S)
        try:
            text = _post(connection, self._forget_path, {})
            if not json.loads(text).get("success", True):
                raise PeerFailed(f"{self._name} keeps what it was told to forget: {text[:300]!r}")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PeerFailed(f"{self._name}: {error!r}\n{self._tail()}") from error
        finally:
            connection.close()

    def _embed(
        self, connection: http.client.HTTPConnection, group: list[str]
    ) -> NDArray[np.float32]:
        text = _post(connection, self._path, {**self._body, "input": group})
        rows = sorted(json.loads(text)["data"], key=lambda row: int(row["index"]))
        vectors = np.stack([_vector(row["embedding"]) for row in rows])
        if len(vectors) != len(group):
            raise PeerFailed(f"answered {len(vectors)} vectors for {len(group)} texts")
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        error: Exception | None = None
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise PeerFailed(
                    f"{self._name} ended with {self._process.returncode}:\n{self._tail()}"
                )
            connection = http.client.HTTPConnection(_HOST, self._port, timeout=60)
            try:
                self._embed(connection, ["warm"])
                return
            except (OSError, ValueError, KeyError, http.client.HTTPException, PeerFailed) as last:
                error = last
            finally:
                connection.close()
            time.sleep(0.5)
        raise PeerFailed(f"{self._name} did not get ready: {error!r}\n{self._tail()}")

    def _tail(self) -> str:
        return self._log_file.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End the server."""
        self._signal_all("resume")
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _post(connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any]) -> bytes:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise PeerFailed(f"{path} answered {answer.status}: {text[:300]!r}")
    return text


def _vector(embedding: str | list[float]) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), np.float32)
    return np.array(embedding, np.float32)
