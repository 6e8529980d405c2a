"""What models are made of that multiplies by weights: linear layers side by side, and SwiGLU."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from lasttoken_export.graph.builder import GraphBuilder
from lasttoken_export.graph.linear import LinearLayers
from lasttoken_export.graph.linear_layer import Fold, LinearLayer
from lasttoken_export.graph.product import Product


class LinearBlocks:
    """Records blocks of one graph.

    Args:
        graph: Graph under construction.
        layers: Records their products.
        hidden_size: Elements of a hidden state.

    Attributes:
        recorded: All linear layers so far, each with its inputs ``[T, in]``.
    """

    def __init__(self, graph: GraphBuilder, layers: LinearLayers, *, hidden_size: int) -> None:
        self._graph, self._layers, self._hidden_size = graph, layers, hidden_size
        self.recorded: list[tuple[LinearLayer, ir.Value]] = []

    def linear(
        self,
        parts: Sequence[tuple[str, int]],
        value: ir.Value,
        in_features: int,
        name: str | None = None,
        *,
        bias: bool = False,
        outputs: Sequence[tuple[str, int]] = (),
        fold: Fold | None = None,
        smooths: Sequence[tuple[Fold, int]] = (),
        adds_to_states: bool = False,
    ) -> list[ir.Value]:
        """Multiply by the weights of one or several linear layers, side by side.

        Args:
            parts: Name in the checkpoint and output elements of each.
            value: ``[T, in_features]``.
            in_features: Input elements.
            name: Name in the graph; None for the only part's.
            bias: Whether they have biases.
            outputs: Name and elements of each value that is wanted; none for one of all.
            fold: Where the smoothing of ``value`` goes; None where nothing upstream can take it.
            smooths: Layers whose smoothing goes into this one: each with the first of the output
                columns that it divides.
            adds_to_states: As of `LinearLayer`.

        Returns:
            The outputs, ``[T, elements]`` each.
        """
        layer = LinearLayer(
            name=name or parts[0][0],
            parts=tuple(parts),
            in_features=in_features,
            bias=bias,
            fold=fold,
            smooths=tuple(smooths),
            outputs=tuple(outputs),
            adds_to_states=adds_to_states,
        )
        return [product.value for product in self._multiply(value, layer)]

    def swiglu(
        self,
        parts: Sequence[tuple[str, str]],
        value: ir.Value,
        *,
        name: str,
        down: str,
        inner: int,
        fold: Fold | None = None,
        adds_to_states: bool = False,
    ) -> ir.Value:
        """Record the feed-forward part with SwiGLU: ``[T, hidden]`` to ``[T, hidden]``.

        Args:
            parts: "gate" and "up", in the order side by side, each with its name in the checkpoint.
            value: ``[T, hidden]``.
            name: Of both together in the graph.
            down: Name of the layer behind, in the checkpoint and the graph.
            inner: Elements between.
            fold: As of `linear`.
            adds_to_states: As of `LinearLayer`, of the layer behind.

        Source: https://arxiv.org/abs/2002.05202, equation 6.
        """
        graph, size = self._graph, self._hidden_size
        down_fold = Fold.one_to_one(down, inner)
        order = [what for what, _ in parts]
        gate_up = LinearLayer(
            name=name,
            parts=tuple((part, inner) for _, part in parts),
            in_features=size,
            bias=False,
            outputs=tuple((what, inner) for what in order),
            fold=fold,
            smooths=((down_fold, order.index("up") * inner),),
        )
        # A scale a row of `up` only scales the rows that come out of the layer behind.
        products = self._multiply(value, gate_up, unscaled=["up"])
        gate, up = (products[order.index(what)] for what in ("gate", "up"))
        sigmoid = graph.op("Sigmoid", [gate.value], "gate_sigmoid")
        silu = graph.op("Mul", [gate.value, sigmoid], "silu")
        activated = graph.op("Mul", [silu, up.value], "activated")
        layer = LinearLayer(
            name=down,
            parts=((down, size),),
            in_features=inner,
            bias=False,
            fold=down_fold,
            smooths=(),
            adds_to_states=adds_to_states,
        )
        return self._multiply(activated, layer, row_scale=up.row_scale)[0].value

    def _multiply(
        self,
        value: ir.Value,
        layer: LinearLayer,
        *,
        row_scale: ir.Value | None = None,
        unscaled: Sequence[str] = (),
    ) -> list[Product]:
        self.recorded.append((layer, value))
        return self._layers.multiply(value, layer, row_scale=row_scale, unscaled=unscaled)
