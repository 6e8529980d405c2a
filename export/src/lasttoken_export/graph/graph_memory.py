"""What running a graph on ONNX Runtime's CPU provider takes, counted from its weights."""

from __future__ import annotations

import onnx_ir as ir


def weight_bytes(model: ir.Model) -> int:
    """Return the size of all weights of a graph, built or read from a file."""
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


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value.const_value for value in model.graph.initializers.values())
    return [value for value in values if value is not None]
