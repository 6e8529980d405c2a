"""An ONNX graph as a TensorRT network, strongly typed: the types are those of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lasttoken_export.errors import GraphRefused


def parse_network(trt: Any, builder: Any, logger: Any, graph: Path) -> tuple[Any, Any]:
    """Parse a graph; its external data lies beside it.

    Args:
        trt: The library's module.
        builder: ``trt.Builder``.
        logger: ``trt.ILogger`` of `callbacks.make_logger`.
        graph: Path of the ONNX file.

    Returns:
        The network, and the parser, which must live as long as the network's weights are used.

    Raises:
        GraphRefused: TensorRT does not take a node; the message names it.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise GraphRefused(
            f"TensorRT cannot parse {graph.name}: "
            + ("; ".join(map(_describe, errors)) or "; ".join(logger.errors))
        )
    return network, parser


def _describe(error: Any) -> str:
    return f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"


def allow_unfused_attention(trt: Any, network: Any) -> int:
    """Let every attention be computed by separate operators; returns how many there are.

    For float32, which no fused kernel computes. In the half precisions it is not allowed, so that a
    plan without fused attention is an error and not a slow plan.
    """
    count = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings' way to cast
            layer.attention.decomposable = True
            count += 1
    return count
