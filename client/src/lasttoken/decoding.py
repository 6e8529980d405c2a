"""From the tensors of answers to arrays in the caller's order, without input or output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.embeddings import Embeddings
from lasttoken.errors import ProtocolMismatch, ServerError
from lasttoken.model_card import parse_card
from lasttoken.vector_form import PLAIN, VectorForm


class Assembly:
    """The rows of one call, filled in as answers arrive in any order."""

    def __init__(self, row_count: int, *, model: str) -> None:
        """Make room for `row_count` rows of the model of that name."""
        self._model = model
        self._row_count = row_count
        self._vectors: npt.NDArray[np.float32] | None = None  # [n, D], once D is known
        self._token_counts = np.zeros(row_count, dtype=np.int32)
        self._truncated = np.zeros(row_count, dtype=np.bool_)

    def put(self, rows: npt.NDArray[np.intp], result: Any, *, offset: int = 0) -> None:
        """Check one answer and store it.

        Args:
            rows: Positions that the request's texts had in the call, `[n]`.
            result: tritonclient's `InferResult`.
            offset: Position of row 0 in the caller's texts, for messages.

        Raises:
            ProtocolMismatch: An output is missing or has another shape or type than agreed.
            ServerError: A vector holds NaN or infinity.
        """
        count = len(rows)
        token_counts = self._output(result, "TOKEN_COUNT", np.int32)
        truncated = self._output(result, "TRUNCATED", np.bool_)
        for name, tensor in (("TOKEN_COUNT", token_counts), ("TRUNCATED", truncated)):
            if tensor.shape != (count, 1):
                raise self._mismatch(f"{name} of shape {tensor.shape}, expected ({count}, 1)")
        self._put_vectors(rows, result, offset=offset)
        self._token_counts[rows] = token_counts[:, 0]
        self._truncated[rows] = truncated[:, 0]

    def _put_vectors(self, rows: npt.NDArray[np.intp], result: Any, *, offset: int) -> None:
        count = len(rows)
        vectors = self._output(result, "EMBEDDING", np.float32)
        if vectors.ndim != 2 or vectors.shape[0] != count or vectors.shape[1] == 0:
            raise self._mismatch(f"EMBEDDING of shape {vectors.shape}, expected ({count}, D)")
        finite = np.isfinite(vectors)
        if not finite.all():
            finite = finite.all(axis=1)
            bad = offset + int(rows[int(np.argmin(finite))])
            raise ServerError(f"{self._model}: the vector of texts[{bad}] holds NaN or infinity")
        if self._vectors is None:
            self._vectors = np.empty((self._row_count, vectors.shape[1]), dtype=np.float32)
        elif self._vectors.shape[1] != vectors.shape[1]:
            raise self._mismatch(
                f"vectors of {vectors.shape[1]} dimensions after {self._vectors.shape[1]} before"
            )
        self._vectors[rows] = vectors

    def embeddings(self, *, single: bool) -> Embeddings:
        """Return all rows; every one must have been put.

        Args:
            single: Drop the first axis, for a call with one string.
        """
        assert self._vectors is not None
        if single:
            return Embeddings(
                vectors=self._vectors[0],
                token_counts=self._token_counts.reshape(()),
                truncated=self._truncated.reshape(()),
            )
        return Embeddings(
            vectors=self._vectors, token_counts=self._token_counts, truncated=self._truncated
        )

    def _output(self, result: Any, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        try:
            tensor = result.as_numpy(name)
        except ValueError as error:  # fewer or more bytes than the shape says
            raise self._mismatch(f"an unreadable {name}: {error}") from error
        if tensor is None:
            raise self._mismatch(f"no output {name}")
        if tensor.dtype != dtype:
            raise self._mismatch(f"{name} of type {tensor.dtype}, expected {np.dtype(dtype)}")
        array: npt.NDArray[Any] = tensor
        return array

    def _mismatch(self, what: str) -> ProtocolMismatch:
        return ProtocolMismatch(
            f"{self._model}: the server answered with {what}; is this a lasttoken ensemble, and is "
            "the client as new as the server?"
        )


def empty_embeddings(dimensions: int, form: VectorForm = PLAIN) -> Embeddings:
    """The answer to an empty list: shapes (0, D), (0,) and (0,), in the form asked for."""
    return Embeddings(
        vectors=form.apply(np.empty((0, dimensions), dtype=np.float32)),
        token_counts=np.empty(0, dtype=np.int32),
        truncated=np.empty(0, dtype=np.bool_),
    )


def join_blocks(blocks: Sequence[Embeddings]) -> Embeddings:
    """One answer from at least one block, in their order."""
    return Embeddings(
        vectors=np.concatenate([block.vectors for block in blocks]),
        token_counts=np.concatenate([block.token_counts for block in blocks]),
        truncated=np.concatenate([block.truncated for block in blocks]),
    )


def dimensions_of(metadata: Any, *, model: str) -> int:
    """Length of the vectors, read from Triton's metadata of the ensemble.

    Args:
        metadata: `ModelMetadataResponse`.
        model: Name of the model, for the message.

    Raises:
        ProtocolMismatch: The model has no output EMBEDDING of a fixed length.
    """
    for output in metadata.outputs:
        if output.name == "EMBEDDING" and output.shape and output.shape[-1] > 0:
            return int(output.shape[-1])
    raise ProtocolMismatch(
        f"{model}: its metadata names no output EMBEDDING of a fixed length; it is not a "
        "lasttoken ensemble"
    )


def card_of(config: Any) -> dict[str, Any] | None:
    """The card that the exporter put into the configuration of the ensemble.

    Args:
        config: `ModelConfig`.
    """
    if "card" not in config.parameters:
        return None
    return parse_card(config.parameters["card"].string_value)


def is_text_embedder(metadata: Any) -> bool:
    """Whether a model takes TEXT and gives EMBEDDING, as ensembles do and their steps do not."""
    takes_text = any(tensor.name == "TEXT" for tensor in metadata.inputs)
    return takes_text and any(tensor.name == "EMBEDDING" for tensor in metadata.outputs)
