"""The async client: the surface of the sync one, on asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lasttoken.core import CHANNEL_ARGUMENTS, ClientCore, EmbedPlan
from lasttoken.decoding import empty_embeddings, is_text_embedder
from lasttoken.embeddings import Embeddings, ModelInfo
from lasttoken.encoding import check_call, check_timeout
from lasttoken.errors import RequestCancelled
from lasttoken.options import Priority

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncEmbeddingClient(ClientCore):
    """Embeds texts with a lasttoken ensemble on a Triton server, over gRPC, without blocking.

    A client belongs to the event loop of its first call.

    ::

        async with AsyncEmbeddingClient("127.0.0.1:8001", "sfr_embedding_mistral") as client:
            vectors = await client.embed(["a text", "another"])  # [2, D] float32
    """

    _connection: Any = None

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        instruction: str | None = None,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
    ) -> npt.NDArray[np.float32]:
        """Embed one text or many.

        Args:
            texts: A string, or a list of strings of any length.
            prompt_name: One of the model's prompts, such as `"query"`; None for its default.
            instruction: What the texts are searched for, in place of a prompt.
            timeout_s: Time for the whole call with all its retries, in seconds.
            priority: `"interactive"`, or `"bulk"` for work that may wait behind it.

        Returns:
            float32, L2-normalised: [D] for a string, [n, D] in the order given for a list,
            (0, D) for an empty list.

        Raises:
            InvalidInput: An argument is wrong, or the server refused it.
            LasttokenError: One of the other errors of `lasttoken.errors`.
        """
        embeddings = await self.embed_full(
            texts,
            prompt_name=prompt_name,
            instruction=instruction,
            timeout_s=timeout_s,
            priority=priority,
        )
        return self._vectors(embeddings)

    async def embed_full(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        instruction: str | None = None,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
    ) -> Embeddings:
        """Embed like `embed`, and return token counts and truncation with the vectors.

        It does not warn of truncated texts, as the answer says which they are.
        """
        call = check_call(
            texts,
            prompt_name=prompt_name,
            instruction=instruction,
            timeout_s=timeout_s,
            priority=priority,
        )
        self._check_open()
        if not call.texts:
            if self._dimensions is None:
                self._dimensions = (await self.model_info(timeout_s=timeout_s)).dimensions
            return empty_embeddings(self._dimensions or 0)
        plan = self._plan(call)
        await self._run(plan)
        return self._finish(plan)

    async def model_info(self, *, timeout_s: float = 10.0) -> ModelInfo:
        """What the server says about this client's model.

        Raises:
            ModelNotFound: The server has no model of that name.
            ModelUnavailable: No server there, or the model is not ready.
            ProtocolMismatch: It is not a text-embedding ensemble.
        """
        metadata = await self._ask("get_model_metadata", self._options.model, timeout_s=timeout_s)
        return await self._described(metadata, timeout_s)

    async def list_models(self, *, timeout_s: float = 10.0) -> tuple[ModelInfo, ...]:
        """Text-embedding models of the server, in order of their names.

        Models that are not ready are listed without dimensions, whatever they are for.
        """
        index = await self._ask("get_model_repository_index", timeout_s=timeout_s)
        models = []
        for entry in sorted(index.models, key=lambda entry: str(entry.name)):
            if entry.state != "READY":
                models.append(self._unready_model(entry))
                continue
            metadata = await self._ask("get_model_metadata", entry.name, timeout_s=timeout_s)
            if is_text_embedder(metadata):
                models.append(await self._described(metadata, timeout_s))
        return tuple(models)

    async def close(self) -> None:
        """Close the connection; calls in flight end with `RequestCancelled`."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _described(self, metadata: Any, timeout_s: float) -> ModelInfo:
        config = await self._ask("get_model_config", metadata.name, timeout_s=timeout_s)
        return self._model_info(metadata, config)

    def _connect(self) -> Any:
        self._check_open()
        if self._connection is None:  # not in the constructor: a channel needs the running loop
            import tritonclient.grpc.aio as triton  # 0.3 s that `import lasttoken` need not take

            self._connection = triton.InferenceServerClient(
                self._options.url, channel_args=list(CHANNEL_ARGUMENTS)
            )
        return self._connection

    async def _run(self, plan: EmbedPlan) -> None:
        """Send the requests of a plan and wait for all; whatever ends it early cancels the rest."""
        connection = self._connect()
        in_flight: dict[asyncio.Task[Any], int] = {}
        try:
            while not plan.dispatch.finished:
                for request in plan.dispatch.take(time.monotonic()):
                    arguments = self._infer_arguments(plan, request)
                    in_flight[asyncio.create_task(connection.infer(**arguments))] = request
                wait_s = plan.dispatch.wait_s(time.monotonic())
                if not in_flight:
                    await asyncio.sleep(wait_s)
                    continue
                done, _ = await asyncio.wait(
                    in_flight, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    request = in_flight.pop(attempt)
                    if attempt.cancelled():  # not by us: close() ended the channel
                        raise RequestCancelled("the client was closed during the call")
                    error = attempt.exception()
                    answer = attempt.result() if error is None else None
                    self._judge(plan, request, answer, error)
        finally:
            for attempt in in_flight:
                attempt.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)

    async def _ask(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        check_timeout(timeout_s)
        connection = self._connect()
        from tritonclient.utils import InferenceServerException

        try:
            return await getattr(connection, method)(
                *arguments, headers=dict(self._options.headers), client_timeout=timeout_s
            )
        except InferenceServerException as error:
            raise self._error_of(error) from error
