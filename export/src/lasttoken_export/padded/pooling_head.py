"""Puts the pooling head on a padded graph, so that its one output is ``embedding``.

Inputs that follow from others (token types, positions) are computed inside, so that every padded
graph has the same two: ``input_ids [B, S] int64`` and ``attention_mask [B, S] int64``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from lasttoken_export.errors import UnsupportedArchitecture
from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.graph.pooling import build_l2_normalize, build_layer_norm

HIDDEN_STATES = "last_hidden_state"
_INPUTS = ("input_ids", "attention_mask")
_LAYER_NORM_OPSET = 17


def graft_pooling_head(model: ir.Model, contract: EmbeddingContract, *, dimensions: int) -> None:
    """Change a model's graph in place.

    Args:
        model: Has the output ``last_hidden_state [B, S, D]``.
        contract: Says how hidden states are pooled.
        dimensions: Elements of a hidden state.

    Raises:
        UnsupportedArchitecture: The graph has other inputs or outputs than a text encoder's.
    """
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    outputs = {str(value.name): value for value in graph.outputs}
    if HIDDEN_STATES not in outputs or not set(_INPUTS) <= inputs.keys():
        raise UnsupportedArchitecture(
            f"the exported graph has the inputs {sorted(inputs)} and the outputs "
            f"{sorted(outputs)}; a text encoder has input_ids, attention_mask and "
            f"{HIDDEN_STATES}"
        )
    if (graph.opset_imports.get("") or 0) < _LAYER_NORM_OPSET:
        raise UnsupportedArchitecture(f"the exported graph has opset {graph.opset_imports!r}")
    derived = [name for name in inputs if name not in _INPUTS]
    for name in derived:
        if name not in _DERIVED:
            raise UnsupportedArchitecture(
                f"the exported graph has the input {name!r}; only input_ids, attention_mask, "
                f"{', '.join(_DERIVED)} are known"
            )
        part = GraphBuilder(name)
        ids, mask = (part.input(known, ir.DataType.INT64, ["B", "S"]) for known in _INPUTS)
        with part.scope(name):
            value = _DERIVED[name](part, ids, mask)
        _merge(graph, part, [value], inputs, in_front=True)
        inputs[name].replace_all_uses_with(value)
        graph.inputs.remove(inputs[name])

    head = GraphBuilder("head")
    hidden = head.input(HIDDEN_STATES, ir.DataType.FLOAT, ["B", "S", dimensions])
    mask = head.input("attention_mask", ir.DataType.INT64, ["B", "S"])
    with head.scope("pooling_head"):
        pooled = _POOLINGS[contract.pooling](head, hidden, mask)
        if contract.layer_norm:
            pooled = build_layer_norm(head, pooled, dimensions=dimensions)
        embedding = build_l2_normalize(head, pooled, "embedding")
    embedding.shape = ir.Shape(["batch_size", dimensions])
    _merge(graph, head, [embedding], {**inputs, **outputs})
    embedding.name = "embedding"
    graph.outputs[:] = [embedding]


def _merge(
    graph: ir.Graph,
    part: GraphBuilder,
    results: list[ir.Value],
    known: Mapping[str, ir.Value],
    *,
    in_front: bool = False,
) -> None:
    """Move the nodes and constants of a part into the graph; its inputs are the graph's values."""
    built = part.model(results, producer="", version="").graph
    prefix = built.name
    for placeholder in built.inputs:
        placeholder.replace_all_uses_with(known[str(placeholder.name)])
    for name in list(built.initializers):
        constant = built.initializers.pop(name)
        constant.name = f"{prefix}/{name}"
        graph.register_initializer(constant)
    built.outputs.clear()
    nodes = list(built)
    built.remove(nodes)
    if in_front:
        graph.insert_before(graph[0], nodes)
    else:
        graph.extend(nodes)


def _token_types(part: GraphBuilder, ids: ir.Value, mask: ir.Value) -> ir.Value:
    """All of the first type: ``[B, S]`` zeros."""
    del mask
    zero = ir.tensor(np.zeros(1, np.int64))
    shape = part.op("Shape", [ids], "shape")
    return part.op("ConstantOfShape", [shape], "zeros", {"value": zero})  # type: ignore[dict-item, unused-ignore]


def _positions(part: GraphBuilder, ids: ir.Value, mask: ir.Value) -> ir.Value:
    """Count the tokens of each row from 0: ``[B, S]``; behind its end the last one is repeated."""
    del ids
    counted = part.op("CumSum", [mask, part.constant(np.asarray(1, np.int64))], "counted")
    return part.op("Sub", [counted, part.constant(np.asarray(1, np.int64))], "positions")


_DERIVED: Mapping[str, Callable[[GraphBuilder, ir.Value, ir.Value], ir.Value]] = {
    "token_type_ids": _token_types,
    "position_ids": _positions,
}


def _last_token(head: GraphBuilder, hidden: ir.Value, mask: ir.Value) -> ir.Value:
    """Take each row's last token: ``[B, D]``."""
    axis_1 = head.constant(np.asarray([1], np.int64))
    lengths = head.op("ReduceSum", [mask, axis_1], "lengths", {"keepdims": 1})
    last = head.op("Sub", [lengths, head.constant(np.asarray(1, np.int64))], "last")  # [B, 1]
    return head.op("GatherND", [hidden, last], "last_token", {"batch_dims": 1})


def _first_token(head: GraphBuilder, hidden: ir.Value, mask: ir.Value) -> ir.Value:
    """Take each row's first token: ``[B, D]``."""
    del mask
    zero = head.constant(np.asarray(0, np.int64))
    return head.op("Gather", [hidden, zero], "first_token", {"axis": 1})


def _mean(head: GraphBuilder, hidden: ir.Value, mask: ir.Value) -> ir.Value:
    """Average each row's tokens in float32: ``[B, D]``.

    What stands behind a row's end is replaced, not multiplied by zero: it may be infinite.
    """
    axis_1 = head.constant(np.asarray([1], np.int64))
    single = head.op("Cast", [hidden], "float32", {"to": ir.DataType.FLOAT})
    is_token = head.op("Cast", [mask], "is_token", {"to": ir.DataType.BOOL})
    column = head.op(
        "Unsqueeze", [is_token, head.constant(np.asarray([2], np.int64))], "is_token_column"
    )
    zero = head.constant(np.asarray(0, np.float32))
    kept = head.op("Where", [column, single, zero], "kept")
    summed = head.op("ReduceSum", [kept, axis_1], "sum", {"keepdims": 0})
    lengths = head.op("ReduceSum", [mask, axis_1], "lengths", {"keepdims": 1})
    count = head.op("Cast", [lengths], "count", {"to": ir.DataType.FLOAT})
    return head.op("Div", [summed, count], "mean")


_POOLINGS: Mapping[str, Callable[[GraphBuilder, ir.Value, ir.Value], ir.Value]] = {
    "last_token": _last_token,
    "cls": _first_token,
    "mean": _mean,
}
