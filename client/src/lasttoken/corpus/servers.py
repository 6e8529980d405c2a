"""The Triton servers of a run: which one gets the next request, what to do while one is away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from lasttoken.async_client import AsyncEmbeddingClient
from lasttoken.corpus.in_flight import InFlightLimit
from lasttoken.corpus.manifest import ModelIdentity, identity_of
from lasttoken.corpus.options import CorpusOptions
from lasttoken.embeddings import Embeddings
from lasttoken.errors import (
    DeadlineExceeded,
    InvalidInput,
    LasttokenError,
    ModelNotFound,
    ModelUnavailable,
    RequestCancelled,
    ServerError,
    ServerOverloaded,
)
from lasttoken.options import RetryPolicy

if TYPE_CHECKING:
    from typing_extensions import Self

_AWAY = (ModelUnavailable, ModelNotFound, RequestCancelled, DeadlineExceeded)
"""What a server that dies, restarts or loads its model makes of a good request."""
_ENGINE_FAILURES = 3
"""Attempts at a request that the server says it failed on."""
_ONE_ATTEMPT = RetryPolicy(max_attempts=1)
_WAITS = RetryPolicy(initial_s=0.1, max_s=2.0)


class _Server:
    """One server: its connection, how much it is given, and whether it is there."""

    def __init__(self, url: str, options: CorpusOptions) -> None:
        self.url = url
        self.client = AsyncEmbeddingClient(
            url,
            options.model,
            max_texts_per_request=options.max_texts_per_request,
            on_truncation="ignore",
            retry=_ONE_ATTEMPT,
            **options.client_settings(),
        )
        self.limit = InFlightLimit(most=options.max_in_flight)
        self.in_flight = 0
        self.verified = False
        self.failures = 0
        self.not_before = 0.0

    def takes_one(self, now: float) -> bool:
        return now >= self.not_before and self.in_flight < self.limit.requests

    def answered(self) -> None:
        self.failures = 0
        self.not_before = 0.0
        self.limit.answered()

    def failed(self, now: float, jitter: random.Random, *, away: bool) -> None:
        self.failures += 1
        self.not_before = now + jitter.uniform(0.0, _WAITS.longest_wait_s(self.failures))
        if away:
            self.verified = False  # who knows what is served when it is back
            self.limit.lost()
        else:
            self.limit.overloaded()


class ServerPool:
    """Sends requests to several servers that serve the same model.

    A request is tried until a server answers it, unless no server has answered anything for the
    time that the user gave. Requests are idempotent: a text has the same vector each time.
    """

    def __init__(self, options: CorpusOptions, identity: ModelIdentity) -> None:
        """Prepare the connections.

        Args:
            options: The run.
            identity: The model that every server must serve.
        """
        self._options = options
        self._identity = identity
        self._servers = [_Server(url, options) for url in options.urls]
        self._turn = asyncio.Lock()  # requests get their server in the order in which they came
        self._changed = asyncio.Event()
        self._last_answer = time.monotonic()
        self._jitter = random.Random()  # noqa: S311 - spreads retries, guards nothing

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embed the texts of one request.

        Raises:
            InvalidInput: The server refused them.
            ServerError: It failed on them several times.
            LasttokenError: No server has answered for too long, or another error that waiting
                does not cure.
        """
        engine_failures = 0
        while True:
            async with self._turn:
                server = await self._free_server()
                server.in_flight += 1
            try:
                if not server.verified:
                    await self._verify(server)
                embeddings = await server.client.embed_full(
                    list(texts),
                    timeout_s=self._options.server_wait_s,
                    priority="bulk",
                    **self._options.embed_settings(),
                )
            except _AWAY as error:
                away = not isinstance(error, ServerOverloaded)
                server.failed(time.monotonic(), self._jitter, away=away)
                self._check_patience(error)
            except ServerError as error:
                engine_failures += 1
                server.failed(time.monotonic(), self._jitter, away=True)
                if engine_failures == _ENGINE_FAILURES:
                    raise
                self._check_patience(error)
            else:
                server.answered()
                self._last_answer = time.monotonic()
                return embeddings
            finally:
                server.in_flight -= 1
                self._changed.set()

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers:
            await server.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _free_server(self) -> _Server:
        """Wait for a server that takes another request; the least busy one of several."""
        while True:
            now = time.monotonic()
            free = [server for server in self._servers if server.takes_one(now)]
            if free:
                return min(free, key=lambda server: server.in_flight / server.limit.requests)
            waits = [server.not_before - now for server in self._servers]
            due = min((wait for wait in waits if wait > 0), default=None)
            self._changed.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), due)

    async def _verify(self, server: _Server) -> None:
        identity = identity_of(await server.client.model_info())
        if identity != self._identity:
            raise LasttokenError(
                f"{server.url} serves {identity}, but this run is made with {self._identity}"
            )
        server.verified = True

    def _check_patience(self, error: LasttokenError) -> None:
        waited_s = time.monotonic() - self._last_answer
        if waited_s >= self._options.server_wait_s:
            # The model was there when the run began: who has lost it is away.
            kind = ModelUnavailable if isinstance(error, ModelNotFound) else type(error)
            raise kind(
                f"no server has answered for {waited_s:.0f} s; the last one said: {error}",
                status=error.status,
            ) from error


async def model_identity(options: CorpusOptions) -> ModelIdentity:
    """Ask the servers what they serve, before a run begins; try prompt and size on one.

    Servers that do not answer are left to the run, which asks them again.

    Raises:
        InvalidInput: They serve different models, or the model refuses the prompt or the size.
        LasttokenError: None of them answers.
    """
    identities: dict[str, ModelIdentity] = {}
    failure: LasttokenError | None = None
    for url in options.urls:
        async with AsyncEmbeddingClient(url, options.model, **options.client_settings()) as client:
            try:
                identities[url] = identity_of(await client.model_info(timeout_s=10.0))
            except LasttokenError as error:
                failure = error
                continue
            if len(identities) == 1:
                await client.embed("a", timeout_s=options.server_wait_s, **options.embed_settings())
    if not identities:
        assert failure is not None
        raise failure
    (first_url, first), *others = identities.items()
    for url, identity in others:
        if identity != first:
            raise InvalidInput(
                f"the servers serve different models: {first_url} {first}, {url} {identity}"
            )
    return first
