"""The encoder's metrics, on Triton's metrics endpoint; docs/metrics.md documents the names."""

from __future__ import annotations

from typing import Any

from encode_errors import EncodeError, EngineFailed
from scheduler import BatchReport

_COUNTERS = {
    "batches": "Batches run by the engine",
    "rows": "Texts computed",
    "failed_rows": "Texts that the engine failed on",
    "real_tokens": "Tokens of the texts computed",
    "computed_tokens": "Tokens given to the engine, padding included",
    "shared_tokens": "Tokens not computed, as another text of the batch begins with them",
    "kept_tokens": "Tokens not computed, as texts of an earlier batch began with them",
    "real_attention_cells": "Attention cells within the texts computed",
    "computed_attention_cells": "Attention cells computed, padding included",
    "batch_seconds": "Time in the engine, summed over the batches",
    "busy_seconds": "Time for which the engine computed anything",
    "row_engine_seconds": "Time of their batches in the engine, summed over the texts",
    "queue_seconds": "Time that texts waited in the queue, summed over the texts",
    "answer_seconds": "Time from the engine's end to a text's answer, summed over the texts",
}
_BATCH_SECONDS_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


class EncoderMetrics:
    """Counters, a gauge and, where the server offers histograms, one of batch latency.

    Args:
        pb_utils: The module ``triton_python_backend_utils``; passed in so that this module can be
            imported where there is no Triton.
        labels: Labels of every series: model and version.
        info: Further labels of the one series that says what is served.
    """

    def __init__(self, pb_utils: Any, labels: dict[str, str], info: dict[str, str]) -> None:
        self._labels = labels
        self._counter_kind = pb_utils.MetricFamily.COUNTER
        self._families: list[Any] = []  # a family dies with its last reference
        self._pb_utils = pb_utils
        self._counters = {
            name: self._family(f"lasttoken_encoder_{name}_total", text, self._counter_kind).Metric(
                labels=labels
            )
            for name, text in _COUNTERS.items()
        }
        self._refused = self._family(
            "lasttoken_encoder_refused_total",
            "Requests not computed, by reason",
            self._counter_kind,
        )
        kinds: list[type[EncodeError]] = [EncodeError, *EncodeError.__subclasses__()]
        # All at 0: Prometheus takes a series that begins with 1 for no increase.
        self._refused_by_reason = {
            kind.reason: self._refused.Metric(labels={**labels, "reason": kind.reason})
            for kind in kinds
            if kind is not EngineFailed  # these are failed_rows
        }
        self._queue_tokens = self._family(
            "lasttoken_encoder_queue_tokens", "Tokens waiting", pb_utils.MetricFamily.GAUGE
        ).Metric(labels=labels)
        self._info = self._family(
            "lasttoken_model_info", "What is served: always 1", pb_utils.MetricFamily.GAUGE
        ).Metric(labels={**labels, **info})
        self._info.set(1)
        self._batch_histogram = None
        histogram_kind = getattr(pb_utils.MetricFamily, "HISTOGRAM", None)
        if histogram_kind is not None:
            self._batch_histogram = self._family(
                "lasttoken_encoder_batch_latency_seconds", "Time of a batch", histogram_kind
            ).Metric(labels=labels, buckets=_BATCH_SECONDS_BUCKETS)

    def _family(self, name: str, text: str, kind: Any) -> Any:
        family = self._pb_utils.MetricFamily(name=name, description=text, kind=kind)
        self._families.append(family)
        return family

    def batch_done(self, report: BatchReport) -> None:
        """Count a batch."""
        values: dict[str, float] = {
            "batches": 1,
            "rows": report.rows - report.failed_rows,
            "failed_rows": report.failed_rows,
            "real_tokens": report.real_tokens,
            "computed_tokens": report.computed_tokens,
            "shared_tokens": report.shared_tokens,
            "kept_tokens": report.kept_tokens,
            "real_attention_cells": report.real_attention_cells,
            "computed_attention_cells": report.computed_attention_cells,
            "batch_seconds": report.seconds,
            "busy_seconds": report.busy_seconds,
            "row_engine_seconds": report.seconds * report.rows,
            "queue_seconds": report.queue_seconds,
            "answer_seconds": report.answer_seconds,
        }
        for name, value in values.items():
            if value:
                self._counters[name].increment(value)
        if self._batch_histogram is not None:
            self._batch_histogram.observe(report.seconds)
        self.set_queue_tokens(report.queue_tokens)

    def request_dropped(self, reason: str) -> None:
        """Count a request that was not computed."""
        if reason not in self._refused_by_reason:
            self._refused_by_reason[reason] = self._refused.Metric(
                labels={**self._labels, "reason": reason}
            )
        self._refused_by_reason[reason].increment(1)

    def set_queue_tokens(self, tokens: int) -> None:
        """Show how many tokens wait."""
        self._queue_tokens.set(tokens)
