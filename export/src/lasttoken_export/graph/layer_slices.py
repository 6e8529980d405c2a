"""A packed graph cut into its layers, so that one of them is in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

_LAYER = re.compile(r"layers\.(\d+)/")
"""How `PackedGraph` names the nodes of a layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSlice:
    """One layer of a graph, the first with all that comes before it, the last with what follows.

    Attributes:
        inputs: Names of the values that it takes, of the graph's inputs and earlier slices.
        outputs: Names of the values that later slices take of it, or the graph's output.
        weight_elements: Elements of the weights that it takes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_elements: int


def slice_by_layers(graph: ir.Graph, output: str = "embedding") -> list[LayerSlice]:
    """Cut a graph into the layers that its nodes' names tell, for one of its outputs.

    Args:
        graph: Of `PackedGraph.build`, built or read from a file.
        output: Name of the output; what only others need is in no slice.

    Returns:
        The slices, each of which takes values of earlier ones only.
    """
    made_by = _slice_of_each_node(graph, _needed(graph, output))
    inputs: dict[int, dict[str, None]] = {number: {} for number in made_by.values()}
    outputs: dict[int, dict[str, None]] = {number: {} for number in made_by.values()}
    weights: dict[int, set[ir.Value]] = {number: set() for number in made_by.values()}
    given = {_name(value) for value in graph.inputs}
    for node, number in made_by.items():
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            if producer is None:
                if _name(value) in given:
                    inputs[number][_name(value)] = None
                else:
                    weights[number].add(value)
            elif made_by[producer] != number:
                inputs[number][_name(value)] = None
                outputs[made_by[producer]][_name(value)] = None
    outputs[max(outputs)][output] = None
    return [
        LayerSlice(
            inputs=tuple(inputs[number]),
            outputs=tuple(outputs[number]),
            weight_elements=sum(
                weight.const_value.size
                for weight in weights[number]
                if weight.const_value is not None
            ),
        )
        for number in sorted(inputs)
    ]


def build_slice(
    model: ir.Model, layer: LayerSlice, types: Mapping[str, tuple[ir.DataType, int]]
) -> ir.Model:
    """Return one slice as a model of its own, its weights those of the whole, not read yet.

    Args:
        model: The whole.
        layer: Of `slice_by_layers`.
        types: Element type and rank of those inputs that earlier slices give: a graph is written
            without the types of the values in it.
    """
    graph = ir.convenience.extract(model.graph, layer.inputs, layer.outputs)
    for value in graph.inputs:
        if (known := types.get(_name(value))) is not None:
            element, rank = known
            value.type = ir.TensorType(element)
            value.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(rank)])
    return ir.Model(graph, ir_version=model.ir_version, metadata_props=dict(model.metadata_props))


def _needed(graph: ir.Graph, output: str) -> set[ir.Node]:
    """Return the nodes that an output is computed by."""
    wanted = next(value for value in graph.outputs if value.name == output)
    left, found = [wanted.producer()], set[ir.Node]()
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left.extend(value.producer() for value in node.inputs if value is not None)
    return found


def _slice_of_each_node(graph: ir.Graph, needed: set[ir.Node]) -> dict[ir.Node, int]:
    """Number the nodes by layer; one outside the layers goes with the last that it depends on."""
    numbers: dict[ir.Node, int] = {}
    for node in graph:  # in the order of computation
        if node in needed:
            found = _LAYER.match(node.name or "")
            before = [
                numbers[producer]
                for value in node.inputs
                if value is not None and (producer := value.producer()) is not None
            ]
            numbers[node] = max([int(found[1]) if found else 0, *before])
    return numbers


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
