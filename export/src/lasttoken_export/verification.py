"""Checks of a written graph: its weights against the checkpoint, and its vectors as served.

A model that does not fit into memory is run with its first layer only: the same graph otherwise, on
the same file of weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from lasttoken_export.errors import VerificationFailed
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.quality.token_rows import open_graph
from lasttoken_export.server_modules import server_module

_ROW_LENGTHS = (1, 2, 3, 7, 8, 9, 16, 31, 33, 64, 65, 100, 127, 130)
_ALIKE_TOKENS = 24
"""Longer rows begin with so many of the same tokens, as queries do with their instruction."""
_KEPT_TOKENS = 2 * _ALIKE_TOKENS
_PACKINGS = ((13, 0, 6, 11), (1, 12, 5, 3, 9), (10, 2), (4, 8, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphChecks:
    """What the graph was found to do.

    Attributes:
        layers_run: Layers of the graph that was run.
        rows: Rows computed alone, in company, and behind what an earlier one began with.
        bitwise_batch_invariant: Whether each row's vector was the same to the last bit.
        largest_batch_difference: Largest difference of an element between the first and the others.
        largest_norm_error: Largest distance of a vector's L2 norm from 1.
    """

    layers_run: int
    rows: int
    bitwise_batch_invariant: bool
    largest_batch_difference: float
    largest_norm_error: float


def check_weights(graph: Path, first_layer: ir.Model) -> int:
    """Compare the written weights of the first layer, bit for bit, with those of the checkpoint.

    Args:
        graph: Path of encoder.onnx.
        first_layer: The same graph with one layer, its weights not read yet; from here on they are
            those of the written file.

    Returns:
        Bytes compared.

    Raises:
        VerificationFailed: A weight is missing, or not the checkpoint's.
    """
    written = ir.load(graph).graph.initializers
    compared = 0
    for name, value in first_layer.graph.initializers.items():
        expected = value.const_value
        if not isinstance(expected, ir.LazyTensor):
            continue  # a constant of the graph's own
        found = written[name].const_value if name in written else None
        if found is None or found.dtype != expected.dtype or found.shape != expected.shape:
            raise VerificationFailed(f"{graph.name} lacks the weight {name!r}, or misshapes it")
        array = found.numpy()
        if not np.array_equal(array.view(np.uint8), expected.numpy().view(np.uint8)):
            raise VerificationFailed(
                f"{name!r} in {graph.name}.data is not the checkpoint's; is the disk sound?"
            )
        value.const_value = found
        compared += array.nbytes
    return compared


def check_graph(
    graph: Path,
    *,
    layers: int,
    dimensions: int,
    vocab_size: int,
    max_length: int,
    target: str = "onnxruntime",
    padded: bool = False,
) -> GraphChecks:
    """Run the written graph on ONNX Runtime's CPU provider, rows alone, packed, behind kept ones.

    Args:
        graph: Path of encoder.onnx.
        layers: Layers that it has, for the record.
        dimensions: Elements that a vector must have.
        vocab_size: Token ids are drawn below this, with a fixed seed.
        max_length: Longer rows are cut to it.
        target: Runtime that the graph is written for.
        padded: Whether it is a padded graph.

    Raises:
        VerificationFailed: A vector has the wrong size, a norm off 1, NaN or infinity, or a row's
            vector depends on its company by more than rounding.
    """
    engine = _open_padded(graph) if padded else open_graph(graph, target=target)
    random = np.random.default_rng(0)
    rows = [
        random.integers(0, vocab_size, min(length, max_length), dtype=np.int32)
        for length in _ROW_LENGTHS
    ]
    for row in rows:
        if len(row) > _ALIKE_TOKENS:
            row[:_ALIKE_TOKENS] = rows[-1][:_ALIKE_TOKENS]
    alone = np.concatenate([_encode(engine, [row]) for row in rows])
    if alone.shape != (len(rows), dimensions) or not np.isfinite(alone).all():
        raise VerificationFailed(
            f"{graph.name} gave vectors of shape {alone.shape} with "
            f"{int(np.size(alone) - np.isfinite(alone).sum())} elements NaN or infinite, not "
            f"{(len(rows), dimensions)} finite ones; half precision overflows with some models: "
            "try --precision fp32"
        )
    packed = np.empty_like(alone)
    for packing in _PACKINGS:
        packed[list(packing)] = _encode(engine, [rows[index] for index in packing])
    begun_with_kept = alone
    if not padded:
        engine.keep_prefixes(_KEPT_TOKENS)
        begun_with_kept = np.concatenate([_encode(engine, [row]) for row in rows])
    found = np.stack([packed, begun_with_kept])
    checks = GraphChecks(
        layers_run=layers,
        rows=len(rows),
        bitwise_batch_invariant=bool((found == alone).all()),
        largest_batch_difference=float(np.abs(found - alone).max()),
        largest_norm_error=float(np.abs(np.linalg.norm(alone, axis=1) - 1).max()),
    )
    # NaN is not at most anything.
    if not (checks.largest_norm_error <= 1e-3 and checks.largest_batch_difference <= 1e-3):
        raise VerificationFailed(f"{graph.name} does not give stable unit vectors: {checks}")
    return checks


def check_graph_where_it_runs(graph: Path, *, target: str, **options: Any) -> dict[str, Any]:
    """Check a graph with `check_graph`, or say why the CPU cannot run one written for a GPU.

    Args:
        graph: Path of encoder.onnx.
        target: ``--runtime``; a graph for ``onnxruntime`` itself must run.
        options: The other arguments of `check_graph`.

    Returns:
        Figures for the card, or ``not_run`` with the reason: bfloat16 has no kernels on the CPU.

    Raises:
        VerificationFailed: As `check_graph`.
    """
    try:
        checks = asdict(check_graph(graph, target=target, **options))
    except (NoKernel, Fail, InvalidGraph) as error:
        if target == "onnxruntime":
            raise
        reason = str(error).strip().splitlines()[0]
        return {"not_run": f"ONNX Runtime's CPU provider cannot run this graph: {reason}"}
    if target.startswith("tensorrt"):
        checks["run_on"] = "ONNX Runtime's CPU provider, weights in floats; a plan needs its GPU"
    return checks


def _open_padded(graph: Path) -> Any:
    module = server_module(ENCODER, "padded_engine")
    return module.PaddedEngine(graph, runtime="onnxruntime-cpu", intra_op_threads=0)


def _encode(engine: Any, rows: list[NDArray[np.int32]]) -> NDArray[np.float32]:
    lengths = np.array([len(row) for row in rows], np.int32)
    vectors: NDArray[np.float32] = engine.encode(np.concatenate(rows), lengths)
    return vectors
