"""Keeps a local server answering: probes it with real inferences and starts it anew when it must.

A Python model's process that has died leaves Triton alive and ready, so only an inference shows it.
Probes pass whatever waits in the encoder; a server that is only busy is left alone (liveness.py).
They do not pass what is being computed, and a batch can take minutes where a large model or a long
text meets few processors: a server that computes meanwhile is left alone too, for a bounded time.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lasttoken.client import EmbeddingClient
from lasttoken.errors import DeadlineExceeded, InvalidInput, LasttokenError, ServerStopped
from lasttoken.liveness import PROBE_CLASSES, is_only_busy, is_unknown_class
from lasttoken.local.server import LocalTriton
from lasttoken.options import RetryPolicy

_PROBE_TEXT = "probe"
_ONE_ATTEMPT = RetryPolicy(max_attempts=1)
_NO_ANSWER = "no answer: "
_COMPUTING_CORES = 0.1
"""Of a server that computes, on a crowded machine too; an idle or a blocked one has a hundredth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisionOptions:
    """When a server is started anew.

    Attributes:
        interval_s: Time between two probes, in seconds.
        timeout_s: Time that a probe may take, in seconds.
        failures: Probes in a row that must fail.
        busy_timeout_s: Time for which probes may go unanswered while the server computes, in
            seconds; not for one that uses a GPU, where no batch takes so long.
        max_restarts: Most restarts within `window_s`; beyond it the supervisor gives up.
        window_s: See `max_restarts`, in seconds.
        stop_timeout_s: How long a server that does not answer may take to stop, in seconds.

    Raises:
        InvalidInput: A value is not positive.
    """

    interval_s: float = 5.0
    timeout_s: float = 10.0
    failures: int = 2
    busy_timeout_s: float = 300.0
    max_restarts: int = 5
    window_s: float = 600.0
    stop_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        positive = ("interval_s", "timeout_s", "failures", "max_restarts", "window_s")
        for name in (*positive, "busy_timeout_s"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; it must be positive")


class Supervisor:
    """Watches one started server.

    Args:
        server: The server; started.
        options: When it is started anew.
        probe: Says why a model does not answer, or None; replaced in tests.
        announce: Told of each restart and its reason; None for silence.
        clock: Seconds.
    """

    def __init__(
        self,
        server: LocalTriton,
        options: SupervisionOptions | None = None,
        *,
        probe: Callable[[str, str, float], str | None] | None = None,
        announce: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._options = options or SupervisionOptions()
        self._probe = probe or probe_model
        self._tell = announce
        self._clock = clock
        self._restarts: collections.deque[float] = collections.deque()
        self._silent_since: float | None = None
        self._stopped = threading.Event()
        self.restarts = 0

    def run(self) -> None:
        """Watch until `stop` is called from another thread, or the process is interrupted.

        Raises:
            ServerStopped: The server had to be started anew too often.
            ServerStartFailed: It could not be started anew.
        """
        failed = 0
        while not self._stopped.is_set():
            try:
                self._server.wait(self._options.interval_s)
            except ServerStopped as error:
                self._restart(str(error).partition(";")[0])
                failed = 0
                continue
            if self._stopped.is_set():
                return
            reason = self._failing()
            failed = failed + 1 if reason else 0
            if reason and failed >= self._options.failures:
                self._restart(reason)
                failed = 0

    def stop(self) -> None:
        """Let `run` return after its current wait; the server goes on."""
        self._stopped.set()

    def _announce(self, words: str) -> None:
        if self._tell is not None:
            self._tell(words)

    def _failing(self) -> str | None:
        for model in self._server.models():
            used_s = self._server.processor_s()
            reason = self._probe(self._server.grpc_url, model, self._options.timeout_s)
            if reason is None:
                continue
            if reason.startswith(_NO_ANSWER) and self._is_computing(used_s):
                return self._silence(f"{model}: {reason}")
            return f"{model}: {reason}"
        self._silent_since = None
        return None

    def _is_computing(self, used_s: float) -> bool:
        """Whether the server, which had used so much processor time before the probe, computes."""
        needed_s = _COMPUTING_CORES * self._options.timeout_s
        return self._server.computes_on_cpu and self._server.processor_s() - used_s >= needed_s

    def _silence(self, reason: str) -> str | None:
        """Forgive a server that computes, until it has been silent for too long."""
        now = self._clock()
        limit_s = self._options.busy_timeout_s
        if self._silent_since is None:
            self._silent_since = now
            self._announce(
                f"{reason}; it computes, so it is left alone until it has been silent for "
                f"{limit_s:g} s"
            )
        return reason if now - self._silent_since >= limit_s else None

    def _restart(self, reason: str) -> None:
        now = self._clock()
        while self._restarts and now - self._restarts[0] > self._options.window_s:
            self._restarts.popleft()
        if len(self._restarts) >= self._options.max_restarts:
            raise ServerStopped(
                f"the server was started anew {len(self._restarts)} times within "
                f"{self._options.window_s:g} s and stopped answering again ({reason}); see its log"
            )
        self._restarts.append(now)
        self._silent_since = None
        self._announce(f"{reason}; starting the server anew")
        started_s = self._clock()
        self._server.restart(stop_timeout_s=self._options.stop_timeout_s)
        self.restarts += 1
        self._announce(f"the server answers again after {self._clock() - started_s:.1f} s")


def probe_model(grpc_url: str, model: str, timeout_s: float) -> str | None:
    """Embed a short text.

    Returns:
        None when the model answers, or refuses as only a working encoder does; else why not, behind
        "no answer: " where it said nothing in time.
    """
    with EmbeddingClient(grpc_url, model, retry=_ONE_ATTEMPT) as client:
        for priority in PROBE_CLASSES:
            try:
                client.embed(_PROBE_TEXT, timeout_s=timeout_s, priority=priority)
            except LasttokenError as error:
                if priority == "probe" and is_unknown_class(error):
                    continue
                if not is_only_busy(error):
                    slow = isinstance(error, DeadlineExceeded)
                    return f"{_NO_ANSWER}{error}" if slow else str(error)
            break
    return None
