"""Int8 products with unsigned weights, which are exact on every processor.

Triton's own ONNX Runtime backend has no option for processors on which products of unsigned by
signed bytes saturate (``processor.py`` of the encoder), so its graphs hold unsigned weights: the
same numbers, each 128 higher, with a zero point of 128. With VNNI these products are slower.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lasttoken_export.quantisation.fixed_inputs import MIDDLE

_WEIGHT, _WEIGHT_ZERO_POINT, _MOST_INPUTS = 1, 5, 7


def use_unsigned_weights(model: ir.Model) -> None:
    """Change the weights of all `MatMulIntegerToFloat` of a graph; nothing is read yet.

    Args:
        model: Changed in place. Weights ``[in, out] int8`` without a zero point become uint8 with
            one; a graph without such products stays as it is.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    graph = model.graph
    name = "weight_zero_point"
    for node in graph:
        if node.op_type != "MatMulIntegerToFloat":
            continue
        weight = node.inputs[_WEIGHT]
        assert weight is not None
        assert weight.const_value is not None
        if weight.const_value.dtype != ir.DataType.UINT8:  # of two products, changed with the first
            weight.const_value = _unsigned(weight.const_value)
            weight.type = ir.TensorType(ir.DataType.UINT8)
        if name not in graph.initializers:
            tensor = ir.Tensor(np.asarray(MIDDLE, np.uint8), name=name)
            graph.register_initializer(ir.Value(name=name, const_value=tensor))
        node.resize_inputs(_MOST_INPUTS)
        node.replace_input_with(_WEIGHT_ZERO_POINT, graph.initializers[name])


def _unsigned(signed: ir.TensorProtocol) -> ir.LazyTensor:
    return ir.LazyTensor(
        # Adding 128 changes the first bit and no other.
        lambda: ir.Tensor(signed.numpy().view(np.uint8) ^ np.uint8(MIDDLE), name=signed.name),
        dtype=ir.DataType.UINT8,
        shape=ir.Shape(signed.shape.numpy()),
        name=signed.name,
    )
