"""The face that sentence-transformers' users know: `encode` and its kin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lasttoken.core import ClientCore
from lasttoken.decoding import join_blocks
from lasttoken.embeddings import Embeddings, ModelInfo
from lasttoken.encode_call import (
    PROMPTS_OF_DOCUMENTS,
    PROMPTS_OF_QUERIES,
    check_encode,
    encoded,
    task_prompt_name,
)
from lasttoken.encoding import check_call
from lasttoken.options import Priority
from lasttoken.plan import EmbedPlan
from lasttoken.progress import Progress
from lasttoken.vector_form import check_trained_size

_INFO_TIMEOUT_S = 10.0
_ENCODE_BLOCK_TEXTS = 4096


class SentenceEncoder(ClientCore):
    """What `EmbeddingClient` has from sentence-transformers."""

    def encode(
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        force_dimensions: bool = False,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
        **others: Any,
    ) -> Any:
        """Embed with the arguments and answers of `SentenceTransformer.encode`.

        Vectors are always normalised by the model; `normalize_embeddings` decides only whether
        vectors cut by `truncate_dim` are normalised again.

        Args:
            inputs: A string, or a list of strings.
            prompt_name: One of the model's prompts; None for its default.
            prompt: Put in front of every text, in place of a prompt.
            batch_size: Most texts of a request; above 256, which a model takes, it is 256.
            show_progress_bar: Show one on stderr, where that is a terminal; None: do not.
            output_value: `"sentence_embedding"`; a server has no other.
            precision: `"float32"`, `"int8"`, `"uint8"`, `"binary"` or `"ubinary"`.
            convert_to_numpy: False: a list of tensors (torch must be installed).
            convert_to_tensor: A tensor in place of an array (torch must be installed).
            device: Must be None; the server decides.
            normalize_embeddings: Normalise cut vectors again.
            truncate_dim: Keep so many elements of each vector.
            pool: Must be None.
            chunk_size: Must be None.
            force_dimensions: Cut to sizes that the model was not trained for, too.
            timeout_s: Time for each request with its retries, in seconds.
            priority: The server's queue, `"interactive"` or `"bulk"`.
            **others: `sentences`, the older name of `inputs`; any other is refused.

        Returns:
            [D] for a string, [n, D] for a list, (0, D) for an empty list.

        Raises:
            InvalidInput: An argument is wrong, or one that a served model cannot honour.
            LasttokenError: torch is asked for and not installed, or one of the other errors of
                `lasttoken.errors`.
        """
        wanted = check_encode(
            inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            force_dimensions=force_dimensions,
            pool=pool,
            chunk_size=chunk_size,
            others=others,
        )
        call = check_call(
            prompt_name=wanted.prompt_name,
            instruction=None,
            timeout_s=timeout_s,
            priority=priority,
        )
        self._check_open()
        if wanted.form.dimensions is not None:
            check_trained_size(wanted.form, self._known_info(timeout_s))
        if not wanted.texts:
            width = self._width(timeout_s)
            return encoded(np.empty((0, width), dtype=np.float32), wanted)
        plan = self._plan(call, of_each_request=True, max_texts=wanted.batch_size)
        progress = Progress(len(wanted.texts)) if show_progress_bar else None
        blocks = []
        for block in self._stream(plan, wanted.texts, _ENCODE_BLOCK_TEXTS):
            blocks.append(block)
            if progress is not None:
                progress.advance(len(block.vectors))
        if progress is not None:
            progress.close()
        self._warn_of_truncation(joined := join_blocks(blocks))
        return encoded(joined.vectors, wanted)

    def encode_query(
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        force_dimensions: bool = False,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
        **others: Any,
    ) -> Any:
        """Embed like `encode`, with the model's prompt for queries unless another one is given."""
        if prompt_name is None and prompt is None:
            prompt_name = task_prompt_name(self._known_info(timeout_s), PROMPTS_OF_QUERIES)
        return self.encode(
            inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            force_dimensions=force_dimensions,
            timeout_s=timeout_s,
            priority=priority,
            **others,
        )

    def encode_document(
        self,
        inputs: str | Sequence[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        force_dimensions: bool = False,
        timeout_s: float = 60.0,
        priority: Priority = "interactive",
        **others: Any,
    ) -> Any:
        """Embed like `encode`, with the model's prompt for documents unless another is given."""
        if prompt_name is None and prompt is None:
            prompt_name = task_prompt_name(self._known_info(timeout_s), PROMPTS_OF_DOCUMENTS)
        return self.encode(
            inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            output_value=output_value,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
            chunk_size=chunk_size,
            force_dimensions=force_dimensions,
            timeout_s=timeout_s,
            priority=priority,
            **others,
        )

    def get_embedding_dimension(self) -> int:
        """Elements of a vector; sentence-transformers' name for `model_info().dimensions`."""
        return self._width(_INFO_TIMEOUT_S)

    def get_sentence_embedding_dimension(self) -> int:
        """Elements of a vector; the older name of `get_embedding_dimension`."""
        return self._width(_INFO_TIMEOUT_S)

    def get_max_seq_length(self) -> int | None:
        """Longest text in tokens, from the model's card; None where it has none."""
        card = (self._known_info(_INFO_TIMEOUT_S)).card or {}
        return card.get("max_length")

    def _known_info(self, timeout_s: float) -> ModelInfo:
        raise NotImplementedError

    def _width(self, timeout_s: float) -> int:
        return (self._known_info(timeout_s)).dimensions or 0

    def _stream(
        self, plan: EmbedPlan, texts: Sequence[bytes], block_texts: int
    ) -> Iterator[Embeddings]:
        raise NotImplementedError
