"""The tokenizer's metrics, on Triton's metrics endpoint; docs/metrics.md documents the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COUNTERS = {
    "texts": "Texts tokenized",
    "tokens": "Tokens of the texts tokenized",
    "truncated_texts": "Texts cut to the model's maximum length",
    "seconds": "Time in the tokenizer",
}


class TokenizerMetrics:
    """Counters, each told once for a group of requests.

    Args:
        pb_utils: The module ``triton_python_backend_utils``.
        labels: Labels of every series: model and version.
    """

    def __init__(self, pb_utils: Any, labels: dict[str, str]) -> None:
        self._labels = labels
        kind = pb_utils.MetricFamily.COUNTER
        # Families are kept: one dies with its last reference, and its series with it.
        self._families = {
            name: pb_utils.MetricFamily(
                name=f"lasttoken_tokenizer_{name}_total", description=text, kind=kind
            )
            for name, text in {**_COUNTERS, "refused": "Requests refused, by reason"}.items()
        }
        self._counters = {name: self._families[name].Metric(labels=labels) for name in _COUNTERS}
        self._refused: dict[str, Any] = {}

    def add(self, counts: Mapping[str, float]) -> None:
        """Add to the counters, by name."""
        for name, value in counts.items():
            if value:
                self._counters[name].increment(value)

    def refused(self, reason: str) -> None:
        """Count a refused request."""
        if reason not in self._refused:
            self._refused[reason] = self._families["refused"].Metric(
                labels={**self._labels, "reason": reason}
            )
        self._refused[reason].increment(1)
