"""Texts to rows of tokens by the model's own contract, and rows to vectors by an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.graph.graph_memory import fits_into_memory
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.quality.layered_graph import LayeredGraph, read_graph
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.server_modules import server_module

_QUERY_PROMPTS = ("query", "search_query")
_DOCUMENT_PROMPTS = ("document", "passage", "search_document")
_WEIGHTS_IN_FLOATS = {"session.disable_quant_qdq": "1"}
"""Weights are dequantised at loading, once. A product that dequantises them in each run sums a lone
token in another order than one among others, and the rounding of inputs enlarges the difference.
"""
BATCH_TOKENS = 512
"""Tokens of a batch that is computed for a comparison, where the graph takes so many."""


class Encoder(Protocol):
    """What runs a packed graph batch by batch: the server's engine, or a stand-in for it."""

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Embed rows that lie back to back."""
        ...


def tokenize_set(tokenizer_folder: Path, retrieval_set: RetrievalSet) -> list[NDArray[np.int32]]:
    """Tokenize queries and then documents, each in the prompt that the model has for it.

    Args:
        tokenizer_folder: Version folder of the exported tokenizer.
        retrieval_set: The texts.

    Returns:
        One ``[length] int32`` row a text.
    """
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(tokenizer_folder)
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    contract = tokenizer.contract
    query, document = prompts_of(contract.prompts)
    prompted = [
        apply_prompt(contract, text, prompt_name=prompt, instruction=None)
        for texts, prompt in ((retrieval_set.queries, query), (retrieval_set.documents, document))
        for text in texts
    ]
    return [row.ids for row in tokenizer.encode(prompted)]


def prompts_of(prompts: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the names of the prompts for queries and for documents; None for the default."""
    query = next((name for name in _QUERY_PROMPTS if name in prompts), None)
    document = next((name for name in _DOCUMENT_PROMPTS if name in prompts), None)
    return query, document


def embed_rows(
    encoder: Encoder | LayeredGraph,
    rows: Sequence[NDArray[np.int32]],
    *,
    tokens: int = BATCH_TOKENS,
    on_rows: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed rows in batches of similar lengths.

    Args:
        encoder: Runs the graph.
        rows: One ``[length] int32`` a text.
        tokens: Most tokens of a batch; a longer row is alone.
        on_rows: Told how many more rows are done.

    Returns:
        ``[rows, dim]`` in the order of the rows.
    """
    lengths = [len(row) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    batches = cut_into_batches(order, lengths, tokens=tokens)
    found = encode_batches(
        encoder, [[rows[index] for index in batch] for batch in batches], on_rows
    )
    vectors = np.empty((len(rows), found[0].shape[1]), np.float32)
    for batch, part in zip(batches, found, strict=True):
        vectors[batch] = part
    return vectors


def encode_batches(
    encoder: Encoder | LayeredGraph,
    batches: Sequence[Sequence[NDArray[np.int32]]],
    on_rows: Callable[[int], None] | None = None,
) -> list[NDArray[np.float32]]:
    """Run batches, whatever order the encoder does it in.

    Args:
        encoder: Runs the graph.
        batches: Each batch's rows of tokens, ``[length] int32``.
        on_rows: Told how many more rows are done.

    Returns:
        ``[rows, dim]`` a batch.
    """
    if isinstance(encoder, LayeredGraph):
        return encoder.encode_batches(batches, on_rows)
    found = []
    for rows in batches:
        found.append(encode_rows(encoder, rows))
        if on_rows is not None:
            on_rows(len(rows))
    return found


def cut_into_batches(
    order: Sequence[int], lengths: Sequence[int], *, tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Cut rows, in the order given, into batches of at most so many tokens; a longer row is alone.

    Args:
        order: Indices of the rows.
        lengths: Tokens of each row.
        tokens: Most tokens of a batch.

    Returns:
        Indices of each batch's rows.
    """
    batches: list[list[int]] = []
    filled = 0
    for index in order:
        if not batches or filled + lengths[index] > tokens:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += lengths[index]
    return batches


def encode_rows(encoder: Encoder, rows: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Run one batch."""
    lengths = np.array([len(row) for row in rows], np.int32)
    return encoder.encode(np.concatenate(rows), lengths)


def open_graph(graph: Path, *, target: str = "onnxruntime", threads: int = 0) -> Any:
    """Open a graph with the server's engine on ONNX Runtime's CPU provider.

    Args:
        graph: Path of the ONNX file.
        target: Runtime that it is written for, as ``--runtime`` names it.
        threads: Threads of one operator; 0 for one a core.
    """
    module = server_module(ENCODER, "onnxruntime_engine")
    return module.OnnxRuntimeEngine(
        graph, runtime="onnxruntime-cpu", intra_op_threads=threads, config=_session_config(target)
    )


def open_within_memory(
    graph: Path, folder: Path, *, memory_bytes: int, target: str = "onnxruntime"
) -> Any:
    """Open a graph as `open_graph` does, or, where it does not fit into memory, layer by layer.

    Args:
        graph: Path of the ONNX file.
        folder: Where one layer's weights are written at a time; made where need be.
        memory_bytes: What running the whole graph takes.
        target: Runtime that it is written for, as ``--runtime`` names it.

    Returns:
        An `Encoder` or a `LayeredGraph`.

    Raises:
        onnxruntime's Fail, InvalidGraph or NotImplemented: It cannot run the graph.
    """
    if fits_into_memory(memory_bytes):
        return open_graph(graph, target=target)
    return LayeredGraph(read_graph(graph), folder, config=_session_config(target))


def _session_config(target: str) -> Mapping[str, str] | None:
    return _WEIGHTS_IN_FLOATS if target.startswith("tensorrt") else None
