"""A peer in a process of its own: loads once, then does what it is told.

Protocol, a JSON object a line: the peer says ``{"ready": true, "version": ...}``; on ``corpus`` it
embeds all texts, on ``single`` its queries one after the other; it writes the vectors to its file
and says ``{"seconds": ..., "latency_ms": [...]}``.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.errors import PeerFailed

_ANSWER_S = 7200.0
"""Far beyond a whole corpus on a few layers of a 7 B model: what is not there by then hangs."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PeerRun:
    """One timed run.

    Attributes:
        seconds: Wall time of embedding all texts, loading excluded.
        vectors: ``[texts, dim] float32`` in the order of the texts.
        latency_ms: Of each call or request, where they were timed one by one.
    """

    seconds: float
    vectors: NDArray[np.float32]
    latency_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """What a peer's module offers to its process.

    Attributes:
        version: Of the library.
        corpus: Embeds ``settings["texts"]``: ``[texts, dim]``.
        single: Embeds one of ``settings["queries"]`` by its index: ``[dim]``.
    """

    version: str
    corpus: Callable[[], NDArray[np.float32]]
    single: Callable[[int], NDArray[np.float32]]


class PeerProcess:
    """Starts ``python -m <module> <settings.json>`` and talks to it.

    Args:
        module: Module of the peer.
        settings: Written to a file for it; ``vectors`` names the file that it writes.
        folder: Folder for the two files.
        python: Its interpreter; None for ours.
        variables: Its environment variables; None for ours.
        answer_s: Longest time until it is ready, and for each run.

    Raises:
        PeerFailed: It did not start.
    """

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        folder: Path,
        *,
        python: Path | None = None,
        variables: Mapping[str, str] | None = None,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self._module = module
        self._answer_s = answer_s
        name = module.rpartition(".")[2]
        self._vectors_file = folder / f"{name}.npy"
        settings_file = folder / f"{name}.json"
        settings_file.write_text(json.dumps({**settings, "vectors": str(self._vectors_file)}))
        self._log = (folder / f"{name}.log").open("w+")
        self._process = subprocess.Popen(
            [str(python or sys.executable), "-m", module, str(settings_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=None if variables is None else dict(variables),
        )
        try:
            self.version = str(self._read().get("version", ""))
        except PeerFailed:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def corpus(self) -> PeerRun:
        """Embed all texts once.

        Raises:
            PeerFailed: The process died, or does not answer.
        """
        return self._tell("corpus")

    def single(self) -> PeerRun:
        """Embed the queries one after the other.

        Raises:
            PeerFailed: The process died, or does not answer.
        """
        return self._tell("single")

    def _tell(self, word: str) -> PeerRun:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading tells its last words
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        answer = self._read()
        return PeerRun(
            seconds=answer["seconds"],
            vectors=np.load(self._vectors_file),
            latency_ms=tuple(answer["latency_ms"]),
        )

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Of an answer's line nothing stays in Python's buffer, so that the pipe tells of the next.
        if not select.select([self._process.stdout], [], [], self._answer_s)[0]:
            self._process.kill()
            raise PeerFailed(f"{self._module} gave no answer within {self._answer_s:g} s")
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            tail = self._log.read()[-2000:]
            raise PeerFailed(f"{self._module} ended with {code}:\n{tail}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(
                    BrokenPipeError
                ):  # of a word that a dead process has not read
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve_peer(load: Callable[[dict[str, Any]], Embedder]) -> None:
    """Run the peer's side of the protocol.

    Args:
        load: Takes the settings and loads the model.
    """
    settings = json.loads(Path(sys.argv[1]).read_text())
    answers = sys.stdout
    sys.stdout = sys.stderr  # a library's chatter must not end up in the protocol
    embedder = load(settings)
    print(json.dumps({"ready": True, "version": embedder.version}), file=answers, flush=True)
    for line in sys.stdin:
        started_s = time.perf_counter()
        latency_ms: list[float] = []
        if line.strip() == "corpus":
            vectors = embedder.corpus()
        else:
            rows = []
            for index in range(len(settings["queries"])):
                sent_s = time.perf_counter()
                rows.append(embedder.single(index))
                latency_ms.append(1000 * (time.perf_counter() - sent_s))
            vectors = np.stack(rows)
        seconds = time.perf_counter() - started_s
        np.save(settings["vectors"], vectors.astype(np.float32))
        print(json.dumps({"seconds": seconds, "latency_ms": latency_ms}), file=answers, flush=True)
