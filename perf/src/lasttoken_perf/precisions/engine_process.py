"""One graph in a process of its own, which times batches of a size when it is told to.

Protocol, a JSON object a line: the process says ``{"dimensions": ...}`` once it has loaded; to
``{"batch_tokens": n, "batches": m}`` it answers with the seconds, its largest resident memory so
far and the vectors' norms.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.errors import PeerFailed, WrongAnswer

ROW_TOKENS = 64
"""Tokens of a row: a batch of 256 is four of them."""


class EngineProcess:
    """Starts the process and talks to it.

    Args:
        graph: Path of encoder.onnx.
        vocab_size: Token ids are drawn below this, with a fixed seed.
        threads: Threads of the runtime; 0 for one a core.

    Raises:
        PeerFailed: It did not start.
    """

    def __init__(self, graph: Path, *, vocab_size: int, threads: int = 0) -> None:
        self._graph = graph
        settings = {"graph": str(graph), "vocab_size": vocab_size, "threads": threads}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.dimensions = int(self._read()["dimensions"])

    def run(self, *, batch_tokens: int, batches: int) -> dict[str, Any]:
        """Compute so many batches; returns ``seconds``, ``tokens`` and ``rss_bytes``.

        Raises:
            PeerFailed: The process died.
            WrongAnswer: A vector is no unit vector.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: reading says so
            self._process.stdin.write(
                json.dumps({"batch_tokens": batch_tokens, "batches": batches}) + "\n"
            )
            self._process.stdin.flush()
        answer = self._read()
        rows = max(1, batch_tokens // ROW_TOKENS)
        if answer["shape"] != [rows, self.dimensions] or not answer["norm_error"] <= 1e-3:
            raise WrongAnswer(
                f"{self._graph} gave {answer['shape']}, off by {answer['norm_error']}"
            )
        return {
            "seconds": answer["seconds"],
            "tokens": batch_tokens * batches,
            "rss_bytes": answer["rss_bytes"],
        }

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(f"the engine of {self._graph} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def rows_of_batch(batch_tokens: int, vocab_size: int) -> tuple[Any, Any]:
    """Return ``[tokens]`` ids and ``[rows]`` lengths of a batch of rows of 64 tokens."""
    rows = max(1, batch_tokens // ROW_TOKENS)
    ids = np.random.default_rng(0).integers(0, vocab_size, batch_tokens, dtype=np.int32)
    return ids, np.full(rows, batch_tokens // rows, np.int32)


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Serve the protocol."""
    settings = json.loads(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr
    engine = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine(
        Path(settings["graph"]),
        runtime="onnxruntime-cpu",
        intra_op_threads=settings["threads"],
    )
    print(json.dumps({"dimensions": engine.dimensions}), file=answers, flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        ids, lengths = rows_of_batch(wanted["batch_tokens"], settings["vocab_size"])
        vectors = engine.encode(ids, lengths)  # warm, and what is checked
        started_s = time.perf_counter()
        for _ in range(wanted["batches"]):
            engine.encode(ids, lengths)
        answer = {
            "seconds": time.perf_counter() - started_s,
            "shape": list(vectors.shape),
            "norm_error": float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max()),
            "rss_bytes": peak_memory_bytes(),
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
