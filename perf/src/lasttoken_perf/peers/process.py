"""A peer in a process of its own: loads once, then embeds the texts each time it is told to.

Protocol, a JSON object a line: the peer says ``{"ready": true}``; on ``run`` it embeds all texts,
writes the vectors to its file and says ``{"seconds": ..., "tokens": ...}``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.errors import PeerFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRun:
    """One timed run.

    Attributes:
        seconds: Wall time of embedding all texts, loading excluded.
        vectors: ``[texts, dim] float32`` in the order of the texts.
    """

    seconds: float
    vectors: NDArray[np.float32]


class PeerProcess:
    """Starts ``python -m <module> <settings.json>`` and talks to it.

    Args:
        module: Module of the peer.
        settings: Written to a file for it; ``vectors`` names the file that it writes.
        folder: Folder for the two files.

    Raises:
        PeerFailed: It did not start.
    """

    def __init__(self, module: str, settings: dict[str, Any], folder: Path) -> None:
        self._module = module
        name = module.rpartition(".")[2]
        self._vectors_file = folder / f"{name}.npy"
        settings_file = folder / f"{name}.json"
        settings_file.write_text(json.dumps({**settings, "vectors": str(self._vectors_file)}))
        self._log = (folder / f"{name}.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(settings_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._read()

    def run(self) -> PeerRun:
        """Embed all texts once.

        Raises:
            PeerFailed: The process died.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        answer = self._read()
        return PeerRun(seconds=answer["seconds"], vectors=np.load(self._vectors_file))

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            tail = self._log.read()[-2000:]
            raise PeerFailed(f"{self._module} ended with {self._process.wait()}:\n{tail}")
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
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def serve_peer(load: Callable[[dict[str, Any]], Callable[[], NDArray[np.float32]]]) -> None:
    """Run the peer's side of the protocol.

    Args:
        load: Takes the settings; returns a function that embeds all texts.
    """
    settings = json.loads(Path(sys.argv[1]).read_text())
    answers = sys.stdout
    sys.stdout = sys.stderr  # a library's chatter must not end up in the protocol
    embed = load(settings)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        started_s = time.perf_counter()
        vectors = embed()
        seconds = time.perf_counter() - started_s
        np.save(settings["vectors"], vectors)
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)
