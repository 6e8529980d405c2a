"""What running a graph takes on ONNX Runtime's CPU provider, counted from its weights."""

from __future__ import annotations

import onnx_ir as ir

from lasttoken_export.available_memory import available_memory_bytes


def weight_bytes(model: ir.Model) -> int:
    """Return the size of all weights of a graph, built or read from a file, in bytes."""
    return sum(tensor.nbytes for tensor in _weights(model))


def memory_to_run(model: ir.Model, *, target: str) -> int:
    """Return the memory in which ONNX Runtime can run a graph, in bytes.

    Args:
        model: The graph; half precision is widened, and folded beside it.
        target: ``--runtime``; a graph for TensorRT is run with its weights in floats.
    """
    needed = 3 * weight_bytes(model)
    if not target.startswith("tensorrt"):
        return needed
    # In float32, with their packed copies, and a batch.
    return max(needed, 2 * 4 * sum(tensor.size for tensor in _weights(model)) + 2**30)


def fits_into_memory(memory_bytes: int) -> bool:
    """Whether so much is available."""
    return memory_bytes < available_memory_bytes()


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value.const_value for value in model.graph.initializers.values())
    return [value for value in values if value is not None]
