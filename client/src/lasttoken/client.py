"""The sync client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from lasttoken.call_headers import call_headers
from lasttoken.channel import connection_arguments
from lasttoken.core import read_block
from lasttoken.decoding import empty_embeddings, is_text_embedder
from lasttoken.embeddings import Embeddings, ModelInfo, ServerInfo
from lasttoken.encoding import (
    check_call,
    check_iterable,
    check_texts,
    check_timeout,
    check_whole_number,
)
from lasttoken.errors import InvalidInput, LasttokenError
from lasttoken.flight import Flight, answer_alone
from lasttoken.options import Priority
from lasttoken.plan import EmbedPlan
from lasttoken.quantization import OutputDtype
from lasttoken.sentence_encoder import SentenceEncoder
from lasttoken.vector_form import check_form, check_trained_size

if TYPE_CHECKING:
    from typing_extensions import Self


class EmbeddingClient(SentenceEncoder):
    """Embeds texts with a lasttoken ensemble on a Triton server, over gRPC.

    One client may be used by many threads at once. After a fork the child has connections of its
    own.

    ::

        with EmbeddingClient("127.0.0.1:8001", "sfr_embedding_mistral") as client:
            vectors = client.embed(["a text", "another"])  # [2, D] float32
    """

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        force_dimensions: bool = False,
        output_dtype: OutputDtype = "float32",
        ranges: npt.ArrayLike | None = None,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
    ) -> npt.NDArray[Any]:
        """Embed one text or many.

        Args:
            texts: A string, or a list of strings of any length.
            prompt_name: One of the model's prompts, such as `"query"`; None for its default, `""`
                for none.
            instruction: What the texts are searched for, in place of a prompt.
            dimensions: Keep so many elements of each vector and normalise again; None keeps all.
                Refused for sizes that the model was not trained for.
            force_dimensions: Cut to any size all the same.
            output_dtype: `"float32"`, `"float16"`, `"int8"`, `"uint8"`, `"binary"` or `"ubinary"`,
                the last four as sentence-transformers' `quantize_embeddings` makes them.
            ranges: For int8 and uint8 each dimension's smallest and largest value, [2, D]; None
                takes them from the vectors of the call.
            timeout_s: Time for the whole call with all its retries, in seconds.
            priority: `"interactive"`, or `"bulk"` for work that may wait behind it.

        Returns:
            float32 unless `output_dtype` says otherwise, L2-normalised: [D] for a string, [n, D]
            in the order given for a list, (0, D) for an empty list.

        Raises:
            InvalidInput: An argument is wrong, or the server refused it.
            LasttokenError: One of the other errors of `lasttoken.errors`.
        """
        embeddings = self.embed_full(
            texts,
            prompt_name=prompt_name,
            instruction=instruction,
            dimensions=dimensions,
            force_dimensions=force_dimensions,
            output_dtype=output_dtype,
            ranges=ranges,
            timeout_s=timeout_s,
            priority=priority,
        )
        self._warn_of_truncation(embeddings)
        return embeddings.vectors

    def embed_full(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        force_dimensions: bool = False,
        output_dtype: OutputDtype = "float32",
        ranges: npt.ArrayLike | None = None,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
    ) -> Embeddings:
        """Embed like `embed`, and return token counts and truncation with the vectors.

        It does not warn of truncated texts, as the answer says which they are.
        """
        call = check_call(
            prompt_name=prompt_name,
            instruction=instruction,
            timeout_s=timeout_s,
            priority=priority,
            form=check_form(
                dimensions=dimensions,
                force_dimensions=force_dimensions,
                output_dtype=output_dtype,
                ranges=ranges,
            ),
        )
        rows = check_texts(texts)
        self._check_open()
        if call.form.dimensions is not None or not rows:
            check_trained_size(call.form, self._known_info(timeout_s))
        if not rows:
            return empty_embeddings(self._width(timeout_s), call.form)
        plan = self._plan(call)
        plan.add(rows)
        self._run(plan)
        block = plan.finished_block()
        assert block is not None
        return self._finish(block, call.form, single=isinstance(texts, str))

    def embed_iter(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        force_dimensions: bool = False,
        output_dtype: OutputDtype = "float32",
        ranges: npt.ArrayLike | None = None,
        timeout_s: float = 60.0,
        priority: Priority = "bulk",
        block_texts: int = 1024,
    ) -> Iterator[npt.NDArray[Any]]:
        """Embed whatever an iterable yields; yields the vectors one by one, in its order.

        Reads ahead of what it yields by four blocks at most, so memory stays bounded however long
        the iterable is. Leaving the loop cancels what is in flight.

        Args:
            texts: Any iterable of strings; the async client also takes async iterables.
            prompt_name: One of the model's prompts, such as `"query"`; None for its default, `""`
                for none.
            instruction: What the texts are searched for, in place of a prompt.
            dimensions: Keep so many elements of each vector and normalise again; None keeps all.
                Refused for sizes that the model was not trained for.
            force_dimensions: Cut to any size all the same.
            output_dtype: `"float32"`, `"float16"`, `"int8"`, `"uint8"`, `"binary"` or `"ubinary"`,
                the last four as sentence-transformers' `quantize_embeddings` makes them.
            ranges: For int8 and uint8 each dimension's smallest and largest value, [2, D]; they
                must be given, as the vectors are never all there.
            timeout_s: Time for each request with its retries, in seconds.
            priority: `"bulk"`, or `"interactive"` to stand in the line of those who wait.
            block_texts: Texts that are put into requests together, by length. A smaller number
                reads less ahead; a larger one mixes fewer lengths.

        Yields:
            [D] for each text, as `embed` would give it.

        Raises:
            InvalidInput: An argument is wrong, or the server refused it.
            LasttokenError: One of the other errors of `lasttoken.errors`.
        """
        blocks = self.embed_blocks(
            texts,
            prompt_name=prompt_name,
            instruction=instruction,
            dimensions=dimensions,
            force_dimensions=force_dimensions,
            output_dtype=output_dtype,
            ranges=ranges,
            timeout_s=timeout_s,
            priority=priority,
            block_texts=block_texts,
        )
        return self._rows_of(blocks)

    def embed_blocks(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        force_dimensions: bool = False,
        output_dtype: OutputDtype = "float32",
        ranges: npt.ArrayLike | None = None,
        timeout_s: float = 60.0,
        priority: Priority = "bulk",
        block_texts: int = 1024,
    ) -> Iterator[Embeddings]:
        """Embed like `embed_iter`; yields blocks of rows with token counts and truncation.

        A block has `block_texts` rows, fewer when the texts are long, when no more are there yet or
        when it is the last. Blocks are in order and without gaps. It does not warn of truncated
        texts.
        """
        call = check_call(
            prompt_name=prompt_name,
            instruction=instruction,
            timeout_s=timeout_s,
            priority=priority,
            form=check_form(
                dimensions=dimensions,
                force_dimensions=force_dimensions,
                output_dtype=output_dtype,
                ranges=ranges,
            ),
        )
        check_iterable(texts, allow_async=False)
        check_whole_number("block_texts", block_texts)
        if call.form.output_dtype in ("int8", "uint8") and call.form.ranges is None:
            raise InvalidInput(
                f"output_dtype is {output_dtype!r} without ranges; give ranges [2, D], as the "
                "vectors are never all there to take them from"
            )
        self._check_open()
        return self._stream(self._plan(call, of_each_request=True), texts, block_texts)

    def model_info(self, *, timeout_s: float = 10.0) -> ModelInfo:
        """What the server says about this client's model.

        Raises:
            ModelNotFound: The server has no model of that name.
            ModelUnavailable: No server there, or the model is not ready.
            ProtocolMismatch: It is not a text-embedding ensemble.
        """
        self._check_open()
        return self._own_info(timeout_s)

    def list_models(self, *, timeout_s: float = 10.0) -> tuple[ModelInfo, ...]:
        """Text-embedding models of the server, in order of their names.

        Models that are not ready are listed without dimensions, whatever they are for.
        """
        self._check_open()
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

    def server_info(self, *, timeout_s: float = 10.0) -> ServerInfo:
        """What the server says about itself, and whether it is ready.

        Raises:
            ModelUnavailable: No server there.
        """
        self._check_open()
        metadata = self._ask("get_server_metadata", timeout_s=timeout_s)
        ready = self._ask("is_server_ready", timeout_s=timeout_s)
        return self._server_info(metadata, ready=ready)

    def close(self) -> None:
        """Close the connections; calls in flight end with `RequestCancelled`."""
        self._closed = True
        with self._lock:
            connections, self._connections = self._connections, {}
        for connection in connections.values():
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

    def _own_info(self, timeout_s: float) -> ModelInfo:
        metadata = self._ask("get_model_metadata", self._options.model, timeout_s=timeout_s)
        return self._described(metadata, timeout_s)

    def _described(self, metadata: Any, timeout_s: float) -> ModelInfo:
        config = self._ask("get_model_config", metadata.name, timeout_s=timeout_s)
        return self._model_info(metadata, config)

    def _known_info(self, timeout_s: float) -> ModelInfo:
        """`model_info`, asked for once, and again like a request where the server is away."""
        if self._info is not None:
            return self._info
        self._check_open()
        asking = self._question(timeout_s)
        while self._info is None:
            now = time.monotonic()
            if not asking.take(now):
                time.sleep(asking.wait_s(now) or 0.0)
                continue
            try:
                self._info = self._own_info(asking.remaining_s(0, now))
            except LasttokenError as error:
                asking.failed(0, error, time.monotonic())
        return self._info

    def _connect(self, server: int) -> Any:
        with self._lock:
            self._check_still_open()
            if server not in self._connections:
                import tritonclient.grpc as triton  # 0.3 s that `import lasttoken` need not take

                arguments = connection_arguments(self._options, self._options.addresses[server])
                self._connections[server] = triton.InferenceServerClient(**arguments)
            return self._connections[server]

    def _run(self, plan: EmbedPlan) -> None:
        """Send the requests of a plan and wait for all; whatever ends it early cancels the rest."""
        if plan.dispatch.count == 1:
            answer_alone(self, self._connect, plan)
            return
        flight = Flight(self, self._connect, plan)
        try:
            while not plan.dispatch.finished:
                flight.send()
                flight.wait()
        finally:
            flight.cancel()

    def _stream(
        self, plan: EmbedPlan, texts: Iterable[str] | Sequence[bytes], block_texts: int
    ) -> Iterator[Embeddings]:
        """Embed what an iterable yields, block by block."""
        if plan.call.form.dimensions is not None:
            check_trained_size(plan.call.form, self._known_info(plan.call.timeout_s))
        source = iter(texts)
        exhausted = False
        flight = Flight(self, self._connect, plan)
        try:
            while not (exhausted and plan.empty):
                while plan.wants_block and not exhausted:
                    block = read_block(source, offset=plan.texts_added, most=block_texts)
                    exhausted = not block
                    if block:
                        plan.add(block)
                        flight.send()  # the server works while the next texts are read
                finished = plan.finished_block()
                if finished is not None:
                    yield self._finish(finished, plan.call.form)
                elif not plan.empty:
                    flight.send()
                    flight.wait()
        finally:
            flight.cancel()

    def _rows_of(self, blocks: Iterator[Embeddings]) -> Iterator[npt.NDArray[Any]]:
        offset = 0
        for block in blocks:
            self._warn_of_truncation(block, offset)
            offset += len(block.vectors)
            yield from block.vectors

    def _ask(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        timeout_s = check_timeout(timeout_s)
        from tritonclient.utils import InferenceServerException

        while True:
            server = self._rotation.take(time.monotonic())
            connection = self._connect(server)
            try:
                answer = getattr(connection, method)(
                    *arguments, headers=call_headers(self._options), client_timeout=timeout_s
                )
            except InferenceServerException as error:
                failure = self._error_of(error, asked=self._asked(server, arguments))
                if not self._note_failure(server, failure, time.monotonic()):
                    raise failure from error
            except ValueError as error:  # gRPC's word for a channel that was closed meanwhile
                self._check_still_open()
                raise error
            else:
                self._rotation.reached(server)
                return answer
