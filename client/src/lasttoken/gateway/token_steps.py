"""The two steps of an ensemble, called one by one.

Triton asks whether a caller has gone only between the steps of an ensemble, and its encoder is the
last one: what waits there is computed for nobody. A request sent to the encoder itself is dropped
from its queue when the call is cancelled. It is also the way in for token ids, and the number of
tokens is known before any of them is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.async_client import AsyncEmbeddingClient
from lasttoken.decoding import Assembly
from lasttoken.encoding import check_call, check_texts
from lasttoken.options import Priority
from lasttoken.plan import EmbedPlan

MAX_REQUEST_TOKENS = 4096
"""Rows of one request to the encoder times its longest: below what a server lets wait."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedTexts:
    """What the tokenizer made of texts.

    Attributes:
        rows: For each text its ids, `[length]` int32, prompt and special tokens included.
        truncated: `[n]` bool, whether the text was cut to the model's maximum.
    """

    rows: list[npt.NDArray[np.int32]]
    truncated: npt.NDArray[np.bool_]


class _TokenAssembly(Assembly):
    """Rows of ids instead of vectors."""

    def __init__(self, row_count: int, *, model: str) -> None:
        super().__init__(row_count, model=model)
        self.ids: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)] * row_count
        self.cut = np.zeros(row_count, np.bool_)

    def put(self, rows: npt.NDArray[np.intp], result: Any, *, offset: int = 0) -> None:  # noqa: ARG002
        ids = self._output(result, "INPUT_IDS", np.int32)  # [n, longest]
        lengths = self._output(result, "TOKEN_COUNT", np.int32)  # [n, 1]
        truncated = self._output(result, "TRUNCATED", np.bool_)  # [n, 1]
        shapes = (ids.shape[:1], lengths.shape, truncated.shape)
        if ids.ndim != 2 or shapes != ((len(rows),), (len(rows), 1), (len(rows), 1)):
            raise self._mismatch(f"INPUT_IDS, TOKEN_COUNT and TRUNCATED of shapes {shapes}")
        for position, row, length in zip(rows.tolist(), ids, lengths[:, 0].tolist(), strict=True):
            if not 1 <= length <= len(row):
                raise self._mismatch(f"a row of {length} tokens in INPUT_IDS of shape {ids.shape}")
            self.ids[position] = row[:length]
        self.cut[rows] = truncated[:, 0]


class _VectorAssembly(Assembly):
    """Vectors alone: the encoder says nothing about tokens."""

    def put(self, rows: npt.NDArray[np.intp], result: Any, *, offset: int = 0) -> None:
        self._put_vectors(rows, result, offset=offset)


class TokenizerStep(AsyncEmbeddingClient):
    """Calls the tokenizer of an ensemble."""

    async def tokenize(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None,
        instruction: str | None,
        timeout_s: float,
        priority: Priority = "interactive",
    ) -> TokenizedTexts:
        """Turn texts into the ids that the model reads.

        Raises:
            InvalidInput: The server refused a text, a prompt or an instruction.
            LasttokenError: One of the other errors of `lasttoken.errors`.
        """
        call = check_call(
            prompt_name=prompt_name,
            instruction=instruction,
            timeout_s=timeout_s,
            priority=priority,
        )
        encoded = check_texts(list(texts))
        assembly = _TokenAssembly(len(encoded), model=self._options.model)
        plan = self._plan(call)
        plan.add(encoded, assembly=assembly)
        await self._run(plan)
        return TokenizedTexts(rows=assembly.ids, truncated=assembly.cut)


class EncoderStep(AsyncEmbeddingClient):
    """Calls the encoder of an ensemble."""

    async def encode_ids(
        self,
        rows: Sequence[npt.NDArray[np.int32]],
        *,
        timeout_s: float,
        priority: Priority = "interactive",
    ) -> npt.NDArray[np.float32]:
        """Compute the vectors of token ids.

        Args:
            rows: For each text its ids, `[length]` int32 of at least one, special tokens included.
            timeout_s: Time for the whole call, in seconds.
            priority: The server's queue.

        Returns:
            `[n, D]` float32, L2-normalised.

        Raises:
            LasttokenError: One of the errors of `lasttoken.errors`.
        """
        call = check_call(
            prompt_name=None, instruction=None, timeout_s=timeout_s, priority=priority
        )
        assembly = _VectorAssembly(len(rows), model=self._options.model)
        plan = self._plan(call)
        plan.add(
            # The ids stand where a text stands otherwise.
            tuple(row.astype("<i4", copy=False).tobytes() for row in rows),
            requests=split_by_tokens(
                [len(row) for row in rows], self._options.max_texts_per_request
            ),
            assembly=assembly,
        )
        await self._run(plan)
        return assembly.embeddings(single=False).vectors

    def _inputs(self, plan: EmbedPlan, number: int) -> list[Any]:
        return _token_inputs(plan.request(number).texts)


def split_by_tokens(lengths: Sequence[int], max_rows: int) -> list[npt.NDArray[np.intp]]:
    """Split rows into requests of similar lengths, the longest first.

    Args:
        lengths: Tokens of each row.
        max_rows: Most rows of a request.

    Returns:
        For each request the positions of its rows, int `[rows]`; every row is in exactly one, and
        rows times the longest is at most `MAX_REQUEST_TOKENS`, unless a longer row is alone.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    requests = []
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        stop = start + max(1, min(max_rows, MAX_REQUEST_TOKENS // longest))
        requests.append(order[start:stop])
        start = stop
    return requests


def _token_inputs(rows: Sequence[bytes]) -> list[Any]:
    """INPUT_IDS `[n, longest]` and ROW_LENGTHS `[n, 1]`, both INT32."""
    import tritonclient.grpc as triton

    longest = max(len(row) for row in rows)
    ids = np.frombuffer(b"".join(row.ljust(longest, b"\0") for row in rows), "<i4")
    lengths = np.array([[len(row) // 4] for row in rows], np.int32)
    inputs = []
    for name, tensor in (("INPUT_IDS", ids.reshape(len(rows), -1)), ("ROW_LENGTHS", lengths)):
        infer_input = triton.InferInput(name, list(tensor.shape), "INT32")
        infer_input.set_data_from_numpy(tensor)
        inputs.append(infer_input)
    return inputs
