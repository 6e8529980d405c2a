"""The tokenizer's metrics, on Triton's metrics endpoint; docs/metrics.md documents the names."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from tokenizer_errors import REASONS

_log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0
_COUNTERS = {
    "texts": "Texts tokenized",
    "tokens": "Tokens of the texts tokenized",
    "truncated_texts": "Texts cut to the model's maximum length",
    "seconds": "Time in the tokenizer",
}


class TokenizerMetrics:
    """Counters, told to the server on a thread of their own.

    Each telling is a message to the server's process and back, so no answer waits for one; what
    comes together meanwhile is told as one.

    Args:
        pb_utils: The module ``triton_python_backend_utils``.
        labels: Labels of every series: model and version.
    """

    def __init__(self, pb_utils: Any, labels: dict[str, str]) -> None:
        kind = pb_utils.MetricFamily.COUNTER
        # Families are kept: one dies with its last reference, and its series with it.
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"lasttoken_tokenizer_{name}_total", description=text, kind=kind
            )
            for name, text in {**_COUNTERS, "refused": "Requests refused, by reason"}.items()
        }
        self._counters = {name: self._families[name].Metric(labels=labels) for name in _COUNTERS}
        # All at 0: Prometheus takes a series that begins with 1 for no increase.
        self._refused: dict[str, Any] = {
            reason: self._families["refused"].Metric(labels={**labels, "reason": reason})
            for reason in REASONS
        }
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], float] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._tell, name="metrics", daemon=True)
        self._thread.start()

    def add(self, counts: Mapping[str, float]) -> None:
        """Add to the counters, by name."""
        with self._changed:
            for name, value in counts.items():
                self._waiting[name, ""] = self._waiting.get((name, ""), 0.0) + value
            self._changed.notify()

    def refused(self, reason: str) -> None:
        """Count a refused request."""
        with self._changed:
            self._waiting["refused", reason] = self._waiting.get(("refused", reason), 0.0) + 1
            self._changed.notify()

    def close(self) -> None:
        """Tell what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _tell(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                waiting, self._waiting = self._waiting, {}
            try:
                for (name, reason), value in waiting.items():
                    if value:
                        self._counter(name, reason).increment(value)
            except Exception:  # noqa: BLE001 - the next ones are worth telling still
                _log.exception("metrics could not be told to the server")

    def _counter(self, name: str, reason: str) -> Any:
        return self._refused[reason] if name == "refused" else self._counters[name]
