"""What both clients are made of, apart from input and output."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.decoding import Assembly, card_of, dimensions_of
from lasttoken.dispatch import Dispatch
from lasttoken.embeddings import Embeddings, ModelInfo
from lasttoken.encoding import EmbedCall, request_inputs, request_parameters, split_rows
from lasttoken.errors import InputTooLong, InvalidInput, LasttokenError, TruncationWarning
from lasttoken.options import ClientOptions, OnTruncation, RetryPolicy

CHANNEL_ARGUMENTS = (
    ("grpc.max_send_message_length", -1),  # -1: no limit
    ("grpc.max_receive_message_length", -1),
    # After a lost connection try again soon; the waits between attempts are ours.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_ROW_NAMED = re.compile(r"\b(?:text|TEXT|PROMPT_NAME|INSTRUCTION) (\d+)\b")
_PACKAGE_FOLDER = str(Path(__file__).parent)


@dataclass(slots=True, kw_only=True)
class EmbedPlan:
    """One call on its way: its requests, their state and the rows that have arrived.

    Attributes:
        call: The checked arguments.
        requests: For each request the positions of its texts.
        dispatch: Which request is sent when.
        assembly: The rows so far.
    """

    call: EmbedCall
    requests: list[npt.NDArray[np.intp]]
    dispatch: Dispatch
    assembly: Assembly


class ClientCore:
    """Settings, planning and judging of answers, shared by the sync and the async client."""

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        model: str = "sfr_embedding_mistral",
        *,
        max_texts_per_request: int = 64,
        max_in_flight: int = 16,
        on_truncation: OnTruncation = "warn",
        retry: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Make a client; the connection is opened by the first call.

        Args:
            url: `host:port` of Triton's gRPC service; the port defaults to 8001.
            model: Triton's name of the ensemble.
            max_texts_per_request: Longer lists are split into requests of at most so many texts.
            max_in_flight: Requests of one call that are with the server at a time.
            on_truncation: What `embed` does when a text was too long and the server cut it:
                `"warn"` (`TruncationWarning`), `"ignore"` or `"error"` (`InputTooLong`).
            retry: When a request refused with UNAVAILABLE is sent again; None for the defaults.
            headers: gRPC metadata that goes with every call.

        Raises:
            InvalidInput: An argument is of a wrong type or value.
        """
        self._options = ClientOptions(
            url=url,
            model=model,
            max_texts_per_request=max_texts_per_request,
            max_in_flight=max_in_flight,
            on_truncation=on_truncation,
            retry=RetryPolicy() if retry is None else retry,
            headers={} if headers is None else headers,
        )
        self._closed = False
        self._dimensions: int | None = None
        self._lock = threading.Lock()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing

    @property
    def options(self) -> ClientOptions:
        """The client's settings."""
        return self._options

    def _plan(self, call: EmbedCall) -> EmbedPlan:
        requests = split_rows(
            [len(text) for text in call.texts], self._options.max_texts_per_request
        )
        return EmbedPlan(
            call=call,
            requests=requests,
            dispatch=Dispatch(
                len(requests),
                deadline=time.monotonic() + call.timeout_s,
                max_in_flight=self._options.max_in_flight,
                retry=self._options.retry,
                jitter=self._jitter,
            ),
            assembly=Assembly(len(call.texts), model=self._options.model),
        )

    def _infer_arguments(self, plan: EmbedPlan, request: int) -> dict[str, Any]:
        """Arguments of tritonclient's `infer` for one attempt that starts now."""
        remaining_s = plan.dispatch.remaining_s(time.monotonic())
        return {
            "model_name": self._options.model,
            "inputs": self._inputs(plan, request),
            "parameters": request_parameters(plan.call),
            # gRPC's deadline ends the wait here; Triton's timeout lets the server drop the rows.
            "client_timeout": remaining_s,
            "timeout": max(1, int(remaining_s * 1e6)),
            "headers": dict(self._options.headers),
        }

    def _inputs(self, plan: EmbedPlan, request: int) -> list[Any]:
        """Input tensors of one request; the gateway's step clients send others."""
        return request_inputs(plan.call, plan.requests[request])

    def _judge(
        self, plan: EmbedPlan, request: int, answer: Any, error: BaseException | None
    ) -> None:
        """Store an answer, arrange another attempt, or raise what the call ends with."""
        if error is None:
            plan.assembly.put(plan.requests[request], answer)
            plan.dispatch.answered(request)
        else:
            failure = _in_callers_terms(self._error_of(error), plan.requests[request])
            plan.dispatch.failed(request, failure, time.monotonic())

    def _error_of(self, error: BaseException) -> LasttokenError:
        """The error to raise for one of tritonclient's; any other is raised as it is."""
        from lasttoken.statuses import error_of_triton  # needs gRPC, which is loaded by now

        return error_of_triton(error, model=self._options.model)

    def _finish(self, plan: EmbedPlan) -> Embeddings:
        embeddings = plan.assembly.embeddings(single=plan.call.single)
        if self._options.on_truncation == "error" and embeddings.truncated.any():
            raise InputTooLong(_truncation_message(embeddings))
        return embeddings

    def _vectors(self, embeddings: Embeddings) -> npt.NDArray[np.float32]:
        if self._options.on_truncation == "warn" and embeddings.truncated.any():
            warnings.warn(
                _truncation_message(embeddings), TruncationWarning, stacklevel=_caller_level()
            )
        return embeddings.vectors

    def _model_info(self, metadata: Any, config: Any) -> ModelInfo:
        versions = list(metadata.versions)
        return ModelInfo(
            name=metadata.name,
            version=versions[-1] if versions else "",
            ready=True,  # Triton gives metadata of ready models only
            dimensions=dimensions_of(metadata, model=metadata.name),
            card=card_of(config.config),
        )

    def _unready_model(self, entry: Any) -> ModelInfo:
        return ModelInfo(name=entry.name, version=entry.version, ready=False, dimensions=None)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("this client is closed; make a new one")


def _in_callers_terms(error: LasttokenError, rows: npt.NDArray[np.intp]) -> LasttokenError:
    """Say which of the caller's texts the server means, which knows rows of one request only."""
    named = _ROW_NAMED.search(str(error)) if isinstance(error, InvalidInput) else None
    if named is None or int(named[1]) >= len(rows):
        return error
    position = rows[int(named[1])]
    return type(error)(f"{error}; in this call that is texts[{position}]", status=error.status)


def _truncation_message(embeddings: Embeddings) -> str:
    cut = np.flatnonzero(embeddings.truncated)
    shown = ", ".join(str(position) for position in cut[:5]) + (", ..." if len(cut) > 5 else "")
    return (
        f"{len(cut)} of {embeddings.truncated.size} texts were longer than the model's maximum and "
        f"were cut (positions {shown}); split them, or set on_truncation"
    )


def _caller_level() -> int:
    """Stack level of the first frame outside this package, for `warnings.warn` in `_vectors`."""
    level = 2
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_FOLDER):
        frame = frame.f_back
        level += 1
    return level
