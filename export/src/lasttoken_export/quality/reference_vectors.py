"""Vectors of the fp32 graph, built from the checkpoint when they are asked for, and kept.

The key is made of content: the weights, the graph's operators, and the rows of tokens. So a second
precision of a model, or a second verification, costs half.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export._version import __version__
from lasttoken_export.checkpoint import Checkpoint, default_cache_folder
from lasttoken_export.graph.graph_memory import fits_into_memory, memory_to_run
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality.layered_graph import LayeredGraph
from lasttoken_export.quality.token_rows import Encoder, embed_rows, open_graph

_POSITIONS = 512


def reference_vectors(
    checkpoint: Checkpoint,
    contract: EmbeddingContract,
    rows: Sequence[NDArray[np.int32]],
    *,
    cache_folder: Path | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Embed rows with the checkpoint in float32 on ONNX Runtime's CPU provider.

    A layer at a time where the whole model does not fit into memory.

    Args:
        checkpoint: The weights.
        contract: Pooling and attention.
        rows: One ``[length] int32`` a text.
        cache_folder: Where vectors are kept; None for the default.
        on_rows: Told how many more rows are done.

    Returns:
        ``[rows, dim]``.

    Raises:
        NotEnoughMemory: Less is available than a layer and the states of all tokens take.
    """
    positions = max(_POSITIONS, *map(len, rows))
    model = model_graph(checkpoint, precision="fp32", contract=contract).build(
        rotary_positions=positions, version=__version__
    )
    key = _key(model, rows)
    kept = vectors_folder(cache_folder) / f"{key}.npy"
    if kept.is_file():
        vectors: NDArray[np.float32] = np.load(kept)
        if on_rows is not None:
            on_rows(len(rows))
        return vectors
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
        folder = Path(temporary)
        encoder: Encoder | LayeredGraph
        if fits_into_memory(memory_to_run(model, target="onnxruntime")):
            graph = folder / "reference.onnx"
            ir.save(model, graph, external_data="reference.onnx.data")
            encoder = open_graph(graph)
        else:
            encoder = LayeredGraph(model, folder)
        vectors = embed_rows(encoder, rows, on_rows=on_rows)
        np.save(folder / "vectors.npy", vectors)
        (folder / "vectors.npy").rename(kept)
    return vectors


def vectors_folder(cache_folder: Path | None = None) -> Path:
    """Return where vectors are kept, and the layers of graphs that are run layer by layer.

    Args:
        cache_folder: The cache; None for the default.
    """
    return (cache_folder or default_cache_folder()) / "reference-vectors"


def _key(model: ir.Model, rows: Sequence[NDArray[np.int32]]) -> str:
    """Digest of a graph, weights and all, and of the rows; the names in the graph do not matter."""
    digest = hashlib.sha256()
    numbers: dict[ir.Value, int] = {}
    for node in model.graph:
        inputs = [
            None if value is None else numbers.setdefault(value, len(numbers))
            for value in node.inputs
        ]
        attributes = sorted((name, str(value)) for name, value in node.attributes.items())
        digest.update(repr((node.op_type, node.domain, inputs, attributes)).encode())
    weights = model.graph.initializers.values()
    for value in sorted(weights, key=lambda weight: numbers.get(weight, -1)):
        if value.const_value is not None:
            array = np.ascontiguousarray(value.const_value.numpy())
            digest.update(f"{numbers.get(value)} {array.dtype} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    for row in rows:
        digest.update(len(row).to_bytes(4, "little") + row.tobytes())
    return digest.hexdigest()
