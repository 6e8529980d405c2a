"""What perf_analyzer saw of every request: when it was sent, when it was answered, with what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.errors import MalformedResult, WrongAnswer


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SeenRequests:
    """The requests of one load point's measurement windows, one text each.

    Attributes:
        texts: What was sent.
        latency_ms: ``[n]`` float64.
        token_counts: ``[n]`` int64, as the server returned them.
        truncated: ``[n]`` bool, whether the server cut the text.
        vectors: ``[n, dim]`` float32, as the server returned them.
        seconds: From the first window's begin to the last one's end.
    """

    texts: list[str]
    latency_ms: NDArray[np.float64]
    token_counts: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    vectors: NDArray[np.float32]
    seconds: float


def read_profile_export(path: Path) -> SeenRequests:
    """Read the file of ``--profile-export-file``.

    Requests answered outside the measurement windows are left out.

    Raises:
        MalformedResult: The file has another form.
        WrongAnswer: An answer lacks its vector.
    """
    try:
        [experiment] = json.loads(path.read_text(encoding="utf-8"))["experiments"]
        begin_ns, end_ns = experiment["window_boundaries"][0], experiment["window_boundaries"][-1]
        requests = [
            request
            for request in experiment["requests"]
            if request["response_timestamps"]
            and begin_ns <= request["response_timestamps"][-1] < end_ns
        ]
        texts = [request["request_inputs"]["TEXT"] for request in requests]
        latency_ms = [
            (request["response_timestamps"][-1] - request["timestamp"]) / 1e6
            for request in requests
        ]
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
        raise MalformedResult(
            f"{path} is not a profile export of perf_analyzer: {error!r}"
        ) from error
    try:
        vectors = [request["response_outputs"][0]["EMBEDDING"] for request in requests]
        counts = [request["response_outputs"][0]["TOKEN_COUNT"] for request in requests]
        truncated = [request["response_outputs"][0]["TRUNCATED"] for request in requests]
        return SeenRequests(
            texts=texts,
            latency_ms=np.array(latency_ms, np.float64),
            token_counts=np.array(counts, np.int64).reshape(len(requests)),
            truncated=np.array(truncated, np.bool_).reshape(len(requests)),
            vectors=np.array(vectors, np.float32).reshape(len(requests), -1),
            seconds=(end_ns - begin_ns) / 1e9,
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise WrongAnswer(
            f"an answer has no vector, token count or truncation: {error!r}"
        ) from error
