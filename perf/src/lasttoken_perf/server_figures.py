"""What the server's own metrics say about a stretch of load: differences of two scrapes."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_perf.errors import MetricsUnavailable

Scrape = dict[tuple[str, str], float]
"""Value by name and model, summed over the other labels."""

_SETTLING_S = 0.05
_ADVICE = "give those of the server that is measured, such as http://HOST:8002/metrics"
_SERIES = re.compile(r'^(\w+)\{.*?model="([^"]+)".*?\} (\S+)$')


def scrape(metrics_url: str) -> Scrape:
    """Read the series that belong to a model.

    Args:
        metrics_url: ``http://host:port/metrics``.

    Raises:
        MetricsUnavailable: Nobody answers there, or with something else than text.
    """
    try:
        with urllib.request.urlopen(metrics_url, timeout=10) as answer:  # noqa: S310 - given to us
            return parse_metrics(answer.read().decode())
    except (OSError, ValueError, HTTPException) as error:
        raise MetricsUnavailable(
            f"the server's metrics at {metrics_url!r} cannot be read: {error}; {_ADVICE}"
        ) from None


def check_metrics(metrics_url: str, model: str) -> None:
    """Check, before anything is measured, that the model's series are there.

    Args:
        metrics_url: As of `scrape`.
        model: The ensemble.

    Raises:
        MetricsUnavailable: As of `scrape`, or there is no series of the model.
    """
    steps = {model, f"{model}{TOKENIZER}", f"{model}{ENCODER}"}
    if not any(owner in steps for _, owner in scrape(metrics_url)):
        raise MetricsUnavailable(
            f"{metrics_url!r} answers, but has no series of the model {model!r}; {_ADVICE}"
        )


def settled_scrape(metrics_url: str, *, patience_s: float = 2.0) -> Scrape:
    """Read the series of a server without load: a batch's counters are told one after the other.

    Args:
        metrics_url: As of `scrape`.
        patience_s: How long two readings may differ.

    Returns:
        The first reading like the one before it; the last one when patience has ended.
    """
    end_s = time.monotonic() + patience_s
    values = scrape(metrics_url)
    while time.monotonic() < end_s:
        time.sleep(_SETTLING_S)
        earlier, values = values, scrape(metrics_url)
        if values == earlier:
            break
    return values


def parse_metrics(text: str) -> Scrape:
    """Parse Prometheus' text format."""
    values: Scrape = {}
    for line in text.splitlines():
        if found := _SERIES.match(line):
            key = (found[1], found[2])
            values[key] = values.get(key, 0.0) + float(found[3])
    return values


def figures(
    before: Mapping[tuple[str, str], float],
    after: Mapping[tuple[str, str], float],
    model: str,
    seconds: float,
) -> dict[str, Any]:
    """Return the row's fields of batches, steps and refusals; what cannot be known is left out.

    Args:
        before: Scrape at the begin.
        after: Scrape at the end.
        model: The ensemble.
        seconds: Wall time between them.
    """

    def grown(name: str, step: str = ENCODER) -> float:
        key = (name, f"{model}{step}")
        return after.get(key, 0.0) - before.get(key, 0.0)

    def mean_ms(series: str, step: str) -> float:
        requests = grown("nv_inference_request_success", step)
        return grown(f"nv_inference_{series}_duration_us", step) / requests / 1000

    fields: dict[str, Any] = {"refused": round(grown("lasttoken_encoder_refused_total"))}
    if grown("nv_inference_request_success", TOKENIZER):
        fields["tokenizer_queue_ms"] = mean_ms("queue", TOKENIZER)
        # Triton's clock for a step runs on until the answer has been copied out.
        whole = mean_ms("request", TOKENIZER)
        fields["tokenizer_compute_ms"] = whole - fields["tokenizer_queue_ms"]
    if grown("nv_inference_request_success", ENCODER):
        # The encoder's `execute` ends when the rows are in the scheduler's queue.
        fields["encoder_transfer_ms"] = mean_ms("request", ENCODER)
    if grown("nv_inference_request_success", ""):
        fields["server_ms"] = mean_ms("request", "")
    batches, rows = grown("lasttoken_encoder_batches_total"), grown("lasttoken_encoder_rows_total")
    if batches and rows:
        batch_s = grown("lasttoken_encoder_batch_seconds_total")
        # Servers exported before streams tell the batches' time alone.
        busy_s = grown("lasttoken_encoder_busy_seconds_total") or batch_s
        fields |= {
            "batches": round(batches),
            "tokens_per_batch": grown("lasttoken_encoder_real_tokens_total") / batches,
            "rows_per_batch": rows / batches,
            "batch_ms": 1000 * batch_s / batches,
            "real_over_computed_tokens": grown("lasttoken_encoder_real_tokens_total")
            / grown("lasttoken_encoder_computed_tokens_total"),
            "real_over_computed_cells": grown("lasttoken_encoder_real_attention_cells_total")
            / grown("lasttoken_encoder_computed_attention_cells_total"),
            "engine_busy": busy_s / seconds,
            "encoder_queue_ms": 1000 * grown("lasttoken_encoder_queue_seconds_total") / rows,
            "encoder_engine_ms": 1000 * grown("lasttoken_encoder_row_engine_seconds_total") / rows,
            "encoder_answer_ms": 1000 * grown("lasttoken_encoder_answer_seconds_total") / rows,
        }
    return fields


STEPS = (
    "tokenizer_queue_ms",
    "tokenizer_compute_ms",
    "encoder_transfer_ms",
    "encoder_queue_ms",
    "encoder_engine_ms",
    "encoder_answer_ms",
)
"""The parts of a request's time that the server knows, in order."""


def with_outside(row: dict[str, Any]) -> dict[str, Any]:
    """Add ``outside_ms``: what is left of the client's mean latency."""
    if "mean_ms" in row and all(step in row for step in STEPS):
        return {**row, "outside_ms": row["mean_ms"] - sum(row[step] for step in STEPS)}
    return row
