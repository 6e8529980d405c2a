"""The sync client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lasttoken.core import CHANNEL_ARGUMENTS, ClientCore, EmbedPlan
from lasttoken.decoding import empty_embeddings, is_text_embedder
from lasttoken.embeddings import Embeddings, ModelInfo
from lasttoken.encoding import check_call, check_timeout
from lasttoken.options import Priority

if TYPE_CHECKING:
    from typing_extensions import Self


class EmbeddingClient(ClientCore):
    """Embeds texts with a lasttoken ensemble on a Triton server, over gRPC.

    One client may be used by many threads at once.

    ::

        with EmbeddingClient("127.0.0.1:8001", "sfr_embedding_mistral") as client:
            vectors = client.embed(["a text", "another"])  # [2, D] float32
    """

    _connection: Any = None

    def embed(
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
        embeddings = self.embed_full(
            texts,
            prompt_name=prompt_name,
            instruction=instruction,
            timeout_s=timeout_s,
            priority=priority,
        )
        return self._vectors(embeddings)

    def embed_full(
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
                self._dimensions = self.model_info(timeout_s=timeout_s).dimensions
            return empty_embeddings(self._dimensions or 0)
        plan = self._plan(call)
        self._run(plan)
        return self._finish(plan)

    def model_info(self, *, timeout_s: float = 10.0) -> ModelInfo:
        """What the server says about this client's model.

        Raises:
            ModelNotFound: The server has no model of that name.
            ModelUnavailable: No server there, or the model is not ready.
            ProtocolMismatch: It is not a text-embedding ensemble.
        """
        return self._described(
            self._ask("get_model_metadata", self._options.model, timeout_s=timeout_s), timeout_s
        )

    def list_models(self, *, timeout_s: float = 10.0) -> tuple[ModelInfo, ...]:
        """Text-embedding models of the server, in order of their names.

        Models that are not ready are listed without dimensions, whatever they are for.
        """
        index = self._ask("get_model_repository_index", timeout_s=timeout_s)
        models = []
        for entry in sorted(index.models, key=lambda entry: str(entry.name)):
            if entry.state != "READY":
                models.append(self._unready_model(entry))
                continue
            metadata = self._ask("get_model_metadata", entry.name, timeout_s=timeout_s)
            if is_text_embedder(metadata):
                models.append(self._described(metadata, timeout_s))
        return tuple(models)

    def close(self) -> None:
        """Close the connection; calls in flight end with `RequestCancelled`."""
        self._closed = True
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _described(self, metadata: Any, timeout_s: float) -> ModelInfo:
        config = self._ask("get_model_config", metadata.name, timeout_s=timeout_s)
        return self._model_info(metadata, config)

    def _connect(self) -> Any:
        with self._lock:
            self._check_open()
            if self._connection is None:
                import tritonclient.grpc as triton  # 0.3 s that `import lasttoken` need not take

                self._connection = triton.InferenceServerClient(
                    self._options.url, channel_args=list(CHANNEL_ARGUMENTS)
                )
            return self._connection

    def _run(self, plan: EmbedPlan) -> None:
        """Send the requests of a plan and wait for all; whatever ends it early cancels the rest."""
        connection = self._connect()
        answers: SimpleQueue[tuple[int, Any, Exception | None]] = SimpleQueue()
        in_flight: dict[int, Any] = {}
        try:
            while not plan.dispatch.finished:
                for request in plan.dispatch.take(time.monotonic()):
                    in_flight[request] = self._send(connection, plan, request, answers)
                try:
                    request, answer, error = answers.get(
                        timeout=plan.dispatch.wait_s(time.monotonic())
                    )
                except Empty:  # a retry is due, or the time is over: take() knows
                    continue
                del in_flight[request]
                self._judge(plan, request, answer, error)
        finally:
            for attempt in in_flight.values():
                attempt.cancel()

    def _send(
        self,
        connection: Any,
        plan: EmbedPlan,
        request: int,
        answers: SimpleQueue[tuple[int, Any, Exception | None]],
    ) -> Any:
        def on_answer(result: Any, error: Exception | None) -> None:
            answers.put((request, result, error))

        arguments = self._infer_arguments(plan, request)
        # tritonclient keeps the call it has just begun in an attribute of the connection, where
        # another thread's call would take its place before the callback is attached.
        with self._lock:
            try:
                return connection.async_infer(callback=on_answer, **arguments)
            except ValueError as error:  # gRPC's word for a channel that was closed meanwhile
                self._check_open()
                raise error

    def _ask(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        check_timeout(timeout_s)
        connection = self._connect()
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(connection, method)(
                *arguments, headers=dict(self._options.headers), client_timeout=timeout_s
            )
        except InferenceServerException as error:
            raise self._error_of(error) from error
