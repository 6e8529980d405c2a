"""A thin layer over ``onnx_ir.tape`` that gives every node a readable, scoped name.

Weights are `onnx_ir.LazyTensor`: nothing is read before the file is written, and then one tensor at
a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

OPSET = 23
"""ONNX opset with Attention, RotaryEmbedding and RMSNormalization; the IR version is 11.

Source: https://onnx.ai/onnx/operators/ (since version 23).
"""
IR_VERSION = 11


class GraphBuilder:
    """Records nodes and initialisers of one graph under construction."""

    def __init__(self, name: str) -> None:
        self._tape = tape.Tape()
        self._name = name
        self._scopes: list[str] = []
        self._taken: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._inputs: list[ir.Value] = []
        self._domains: set[str] = set()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of what is recorded inside with ``name/``."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._inputs.append(value)
        return value

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: dict[str, int | float | str | Sequence[int] | ir.TensorProtocol] | None = None,
        *,
        domain: str = "",
    ) -> ir.Value:
        """Record an operator with one output, both named ``<scopes>/<name>``."""
        full_name = self._unique(name)
        if domain:
            self._domains.add(domain)
        value = self._tape.op(
            op_type, inputs, attributes=attributes or None, domain=domain, name=full_name
        )
        value.name = full_name
        return value

    def split(self, value: ir.Value, sizes: Sequence[int], names: Sequence[str]) -> list[ir.Value]:
        """Split the last axis into parts of the given sizes."""
        full_name = self._unique("split_" + "_".join(names))
        outputs = self._tape.op_multi_out(
            "Split",
            [value, self.constant(np.asarray(sizes, np.int64))],
            attributes={"axis": -1},
            num_outputs=len(sizes),
            name=full_name,
        )
        return self._named(outputs, names)

    def split_evenly(self, value: ir.Value, names: Sequence[str], name: str) -> list[ir.Value]:
        """Split the last axis into parts of one size, one for each of ``names``."""
        outputs = self._tape.op_multi_out(
            "Split",
            [value],
            attributes={"axis": -1, "num_outputs": len(names)},
            num_outputs=len(names),
            name=self._unique(name),
        )
        return self._named(outputs, names)

    def _named(self, outputs: Sequence[ir.Value], names: Sequence[str]) -> list[ir.Value]:
        for output, name in zip(outputs, names, strict=True):
            output.name = self._unique(name)
        return list(outputs)

    def constant(self, array: np.ndarray) -> ir.Value:
        """Return an initialiser that holds a small array; equal arrays are shared."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constants/{len(self._constants)}"
            self._constants[key] = self._tape.initializer(ir.Tensor(array, name=name), name=name)
        return self._constants[key]

    def weight(
        self, name: str, shape: Sequence[int], dtype: ir.DataType, read: Callable[[], np.ndarray]
    ) -> ir.Value:
        """Return an initialiser whose array is made by ``read`` when the graph is written.

        Args:
            name: Name of the initialiser.
            shape: Its shape.
            dtype: Its element type; ``read`` must return exactly this type and shape.
            read: Makes the array; called once for each write, never kept.
        """

        def evaluate() -> ir.TensorProtocol:
            array = np.ascontiguousarray(read())
            tensor = ir.Tensor(array, name=name)
            if tuple(array.shape) != tuple(shape) or tensor.dtype != dtype:
                raise AssertionError(f"{name}: {tensor.dtype}{array.shape}, not {dtype}{shape}")
            return tensor

        lazy = ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(shape), name=name)
        return self._tape.initializer(lazy, name=name)

    def model(
        self,
        outputs: Sequence[ir.Value],
        *,
        producer: str,
        version: str,
        metadata: Mapping[str, str] | None = None,
    ) -> ir.Model:
        """Assemble the model from all that was recorded; ``metadata`` is written beside it."""
        graph = ir.Graph(
            self._inputs,
            outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": OPSET, **dict.fromkeys(sorted(self._domains), 1)},
            name=self._name,
        )
        return ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name=producer,
            producer_version=version,
            metadata_props=dict(metadata or {}),
        )

    def _unique(self, name: str) -> str:
        full_name = "/".join([*self._scopes, name])
        candidate, count = full_name, 1
        while candidate in self._taken:
            count += 1
            candidate = f"{full_name}_{count}"
        self._taken.add(candidate)
        return candidate
