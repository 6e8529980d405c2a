"""What both clients are made of, apart from input and output."""

from __future__ import annotations

import math
import os
import random
import re
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken import cosine
from lasttoken.call_headers import call_headers
from lasttoken.decoding import card_of, dimensions_of
from lasttoken.dispatch import Dispatch
from lasttoken.embeddings import Embeddings, ModelInfo, ServerInfo
from lasttoken.encoding import (
    MAX_TEXTS_PER_REQUEST,
    EmbedCall,
    check_timeout,
    request_inputs,
    request_parameters,
    utf8,
)
from lasttoken.errors import (
    InputTooLong,
    InvalidInput,
    LasttokenError,
    ModelUnavailable,
    RequestCancelled,
    ServerOverloaded,
    TruncationWarning,
)
from lasttoken.options import ClientOptions, OnTruncation, RetryPolicy
from lasttoken.plan import Block, EmbedPlan, PlannedRequest
from lasttoken.rotation import Rotation
from lasttoken.security import KeepAlive, Tls, Token
from lasttoken.vector_form import PLAIN, VectorForm
from lasttoken.window import Window

MAX_BLOCK_BYTES = 2**20
"""A block of `embed_iter` is closed when its texts are longer than this, whatever their number."""

_LOST = ("UNAVAILABLE", "CANCELLED")
"""Statuses of a request that a server did not take up."""
_ROW_NAMED = re.compile(r"\b(?:text|TEXT|PROMPT_NAME|INSTRUCTION) (\d+)\b")
_PACKAGE_FOLDER = str(Path(__file__).parent)


class ClientCore:
    """Settings, planning and judging of answers, shared by the sync and the async client."""

    def __init__(
        self,
        url: str | Sequence[str] = "127.0.0.1:8001",
        model: str = "sfr_embedding_mistral",
        *,
        max_texts_per_request: int = 64,
        max_in_flight: int = 32,
        on_truncation: OnTruncation = "warn",
        retry: RetryPolicy | None = None,
        tls: Tls | None = None,
        token: Token | None = None,
        headers: Mapping[str, str] | None = None,
        keepalive: KeepAlive | None = None,
    ) -> None:
        """Make a client; connections are opened by the first calls.

        Args:
            url: `host:port` of Triton's gRPC service (the port defaults to 8001), or several of
                them, in a list or separated by commas: requests take turns, and one that cannot be
                reached is left out. `dns:///host:port` uses all addresses of a name.
            model: Triton's name of the ensemble.
            max_texts_per_request: Longer lists are split into requests of at most so many texts,
                and of no more than the 256 that a model takes.
            max_in_flight: Most requests of one call that are with the server at a time. How many
                they are is found out: more while that helps, fewer when the server refuses some.
            on_truncation: What `embed` does when a text was too long and the server cut it:
                `"warn"` (`TruncationWarning`), `"ignore"` or `"error"` (`InputTooLong`).
            retry: When a request refused with UNAVAILABLE is sent again; None for the defaults.
            tls: How the connection is encrypted and who proves to be who; None: plain text.
            token: Bearer token of every call, or a function that returns the current one.
            headers: gRPC metadata that goes with every call.
            keepalive: Pings on the connection; None for none.

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
            tls=tls,
            token=token,
            headers={} if headers is None else headers,
            keepalive=keepalive,
        )
        self._closed = False
        self._info: ModelInfo | None = None
        self._abandoned: list[Any] = []
        self._begin_afresh()
        _clients.add(self)

    def _begin_afresh(self) -> None:
        """Forget connections and what was learned; for the constructor and the child of a fork."""
        self._lock = threading.Lock()
        self._connections: dict[int, Any] = {}
        self._rotation = Rotation(len(self._options.addresses))
        self._window = Window(self._options.max_in_flight)
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def _after_fork(self) -> None:
        # The parent's connections are the parent's: the child neither uses nor closes them, and its
        # own are opened by its first call. A lock that a thread of the parent held is replaced.
        self._abandoned += self._connections.values()
        self._begin_afresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings: the copy opens connections of its own, as workers do."""
        options = {f.name: getattr(self._options, f.name) for f in fields(self._options)}
        return _make, (type(self), {**options, "headers": dict(self._options.headers)})

    @property
    def options(self) -> ClientOptions:
        """The client's settings."""
        return self._options

    @staticmethod
    def similarity(first: Any, second: Any) -> npt.NDArray[np.float32]:
        """Cosines of each vector of `first` `[n, D]` with each of `second` `[m, D]`: `[n, m]`.

        Arrays, lists of arrays and torch tensors; `[D]` counts as one row. The answer is an array.
        """
        return cosine.similarity(first, second)

    @staticmethod
    def similarity_pairwise(first: Any, second: Any) -> npt.NDArray[np.float32]:
        """Cosine of each vector of `first` `[n, D]` with its counterpart in `second`: `[n]`."""
        return cosine.similarity_pairwise(first, second)

    def _plan(
        self, call: EmbedCall, *, of_each_request: bool = False, max_texts: int | None = None
    ) -> EmbedPlan:
        """Begin a call whose time is for all of it, or for each request."""
        dispatch = Dispatch(
            0,
            window=self._window,
            retry=self._options.retry,
            jitter=self._jitter,
            deadline=math.inf if of_each_request else time.monotonic() + call.timeout_s,
            request_timeout_s=call.timeout_s if of_each_request else math.inf,
        )
        return EmbedPlan(
            call,
            dispatch,
            model=self._options.model,
            max_texts=min(max_texts or self._options.max_texts_per_request, MAX_TEXTS_PER_REQUEST),
        )

    def _question(self, timeout_s: float) -> Dispatch:
        """One question about the model, put again as a request would be."""
        return Dispatch(
            1,
            window=Window(1),
            retry=self._options.retry,
            jitter=self._jitter,
            deadline=time.monotonic() + check_timeout(timeout_s),
        )

    def _infer_arguments(self, plan: EmbedPlan, number: int) -> dict[str, Any]:
        """Arguments of tritonclient's `infer` for one attempt that starts now."""
        remaining_s = plan.dispatch.remaining_s(number, time.monotonic())
        return {
            "model_name": self._options.model,
            "inputs": self._inputs(plan, number),
            "parameters": request_parameters(plan.call),
            # gRPC's deadline ends the wait here; Triton's timeout lets the server drop the rows.
            "client_timeout": remaining_s,
            "timeout": max(1, int(remaining_s * 1e6)),
            "headers": call_headers(self._options),
        }

    def _inputs(self, plan: EmbedPlan, number: int) -> list[Any]:
        """Input tensors of one request; the gateway's step clients send others."""
        return request_inputs(plan.call, plan.request(number).texts)

    def _judge(
        self,
        plan: EmbedPlan,
        number: int,
        server: int,
        answer: Any,
        error: BaseException | None,
    ) -> None:
        """Store an answer, arrange another attempt, or raise what the call ends with."""
        now = time.monotonic()
        if error is None:
            self._rotation.reached(server)
            plan.put(number, answer, now)
            return
        failure = self._error_of(error)
        elsewhere = self._note_failure(server, failure, now)
        failure = _in_callers_terms(failure, plan.request(number))
        plan.dispatch.failed(number, failure, now, elsewhere=elsewhere)

    def _note_failure(self, server: int, failure: LasttokenError, now: float) -> bool:
        """Tell the rotation of a failure; return whether another server may be tried at once."""
        lost = isinstance(failure, ModelUnavailable) and failure.status in _LOST
        if lost and not isinstance(failure, ServerOverloaded):
            return self._rotation.unreachable(server, now)
        self._rotation.reached(server)
        return False

    def _error_of(self, error: BaseException, *, asked: str | None = None) -> LasttokenError:
        """The error to raise for one of tritonclient's; any other is raised as it is.

        It names who was asked: this client's model unless told otherwise.
        """
        from lasttoken.statuses import error_of_triton  # needs gRPC, which is loaded by now

        return error_of_triton(error, asked=asked or self._options.model)

    def _finish(self, block: Block, form: VectorForm, *, single: bool = False) -> Embeddings:
        """The rows of a finished block, in the form that was asked for."""
        rows = block.assembly.embeddings(single=single)
        if self._options.on_truncation == "error" and rows.truncated.any():
            raise InputTooLong(_truncation_message(rows, block.offset))
        if form is PLAIN:
            return rows
        return Embeddings(
            vectors=form.apply(rows.vectors),
            token_counts=rows.token_counts,
            truncated=rows.truncated,
        )

    def _warn_of_truncation(self, rows: Embeddings, offset: int = 0) -> None:
        if self._options.on_truncation == "warn" and rows.truncated.any():
            warnings.warn(
                _truncation_message(rows, offset), TruncationWarning, stacklevel=_caller_level()
            )

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

    def _server_info(self, metadata: Any, *, ready: bool) -> ServerInfo:
        return ServerInfo(
            name=metadata.name,
            version=metadata.version,
            extensions=tuple(metadata.extensions),
            live=True,
            ready=ready,
        )

    def _asked(self, server: int, arguments: tuple[Any, ...]) -> str:
        """Whom a question about a model (its first argument), or about none, was put to."""
        return str(arguments[0]) if arguments else self._options.addresses[server]

    def _check_open(self) -> None:
        """Refuse to begin a call of a client that is closed."""
        if self._closed:
            raise InvalidInput("this client is closed; make a new one")

    def _check_still_open(self) -> None:
        """End a call that has begun: its client was closed meanwhile."""
        if self._closed:
            raise RequestCancelled("the client was closed during the call")


def read_block(texts: Iterator[object], *, offset: int, most: int) -> tuple[bytes, ...]:
    """Take the next texts of an iterator: at most `most`, and about `MAX_BLOCK_BYTES`.

    Raises:
        InvalidInput: One of them is not a string (or UTF-8 already), or not valid Unicode.
    """
    block: list[bytes] = []
    size_bytes = 0
    for position, text in enumerate(islice(texts, most), start=offset):
        block.append(text if isinstance(text, bytes) else utf8(text, f"texts[{position}]"))
        size_bytes += len(block[-1])
        if size_bytes >= MAX_BLOCK_BYTES:
            break
    return tuple(block)


def _make(kind: type[ClientCore], options: dict[str, Any]) -> ClientCore:
    return kind(**options)


_clients: weakref.WeakSet[ClientCore] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _in_callers_terms(error: LasttokenError, request: PlannedRequest) -> LasttokenError:
    """Say which of the caller's texts the server means, which knows rows of one request only."""
    named = _ROW_NAMED.search(str(error)) if isinstance(error, InvalidInput) else None
    if named is None or int(named[1]) >= len(request.rows):
        return error
    position = request.block.offset + int(request.rows[int(named[1])])
    return type(error)(f"{error}; in this call that is texts[{position}]", status=error.status)


def _truncation_message(embeddings: Embeddings, offset: int) -> str:
    cut = np.flatnonzero(embeddings.truncated) + offset
    shown = ", ".join(str(position) for position in cut[:5]) + (", ..." if len(cut) > 5 else "")
    return (
        f"{len(cut)} of {embeddings.truncated.size} texts were longer than the model's maximum and "
        f"were cut (positions {shown}); split them, or set on_truncation"
    )


def _caller_level() -> int:
    """Stack level of the first frame outside this package, for `warnings.warn` in its caller."""
    level = 2
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_FOLDER):
        frame = frame.f_back
        level += 1
    return level
