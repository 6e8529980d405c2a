"""A packed graph that is larger than memory, run a layer at a time.

All batches go through one layer before the next is read: what is in memory is a layer, and the
hidden states of all tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.available_memory import available_memory_bytes
from lasttoken_export.errors import NotEnoughMemory
from lasttoken_export.graph.layer_slices import LayerSlice, build_slice, slice_by_layers
from lasttoken_export.graph.packed_graph import LONE_ROW
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module

_OUTPUT = "embedding"
_BATCH_BYTES = 2**28
"""What is within a layer of a batch."""
Values = dict[str, NDArray[Any]]


def read_graph(graph: Path) -> ir.Model:
    """Read a graph, its weights where they are wanted.

    onnx_ir of itself refuses a file of weights that has a second name, as backups and stores that
    keep equal files once give it. Here no other file than the graph's own is ever read.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.

    Returns:
        The graph; a weight is read when its values are asked for.
    """
    model, data = ir.load(graph), graph.with_name(f"{graph.name}.data")
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.location == data.name:
            value.const_value = ir.ExternalTensor(
                str(data), tensor.offset, tensor.length, tensor.dtype,
                shape=tensor.shape, name=tensor.name,
            )  # fmt: skip
    return model


class LayeredGraph:
    """Runs a packed graph on ONNX Runtime's CPU provider, its layers one after the other.

    Args:
        model: Of `PackedGraph.build`, or of `read_graph`.
        folder: Where a layer's weights are written for as long as it runs; made where need be.
        config: As of the server's ``open_session``.

    Raises:
        onnxruntime's Fail, InvalidGraph or NotImplemented: It cannot run the first layer.
    """

    def __init__(
        self, model: ir.Model, folder: Path, *, config: Mapping[str, str] | None = None
    ) -> None:
        self._model, self._folder, self._config = model, folder, config
        self._slices = slice_by_layers(model.graph, _OUTPUT)
        output = next(value for value in model.graph.outputs if value.name == _OUTPUT)
        assert output.shape is not None
        self._dimensions = _size(output.shape[1])
        self._sessions = server_module(ENCODER, "onnxruntime_session")
        self._open(self._slices[0], {})

    def encode_batches(
        self,
        batches: Sequence[Sequence[NDArray[np.int32]]],
        on_rows: Callable[[int], None] | None = None,
    ) -> list[NDArray[np.float32]]:
        """Embed batches.

        Args:
            batches: Each batch's rows of tokens, ``[length] int32``.
            on_rows: Told how many more rows are done; it is told of as many as there are.

        Returns:
            ``[rows, dim]`` a batch.

        Raises:
            NotEnoughMemory: Less is available than a layer and the states of all tokens take.
        """
        self._check_memory([sum(map(len, rows)) for rows in batches])
        values = [self._inputs(rows) for rows in batches]
        total, told = sum(map(len, batches)), 0
        for number, layer in enumerate(self._slices):
            session = self._open(layer, values[0])
            wanted_later = {
                _OUTPUT,
                *(name for s in self._slices[number + 1 :] for name in s.inputs),
            }
            for batch, known in enumerate(values):
                feeds = {name: known[name] for name in layer.inputs}
                found = self._sessions.run_session(session, feeds, layer.outputs)
                known |= dict(zip(layer.outputs, found, strict=True))
                values[batch] = {name: known[name] for name in known if name in wanted_later}
            del session
            done = total * (number + 1) // len(self._slices)
            if on_rows is not None:
                on_rows(done - told)
            told = done
        # A row may have been computed in company, see `_inputs`.
        return [found[_OUTPUT][: len(rows)] for found, rows in zip(values, batches, strict=True)]

    def _check_memory(self, tokens_of_batches: Sequence[int]) -> None:
        # A batch's states before a layer go when those behind it have come.
        tokens = sum(tokens_of_batches) + max(tokens_of_batches)
        states_bytes = 4 * tokens * self._dimensions
        # In floats, as the file holds them and as products take them.
        weight_bytes = 2 * 4 * max(layer.weight_elements for layer in self._slices)
        needed = weight_bytes + states_bytes + _BATCH_BYTES
        available = available_memory_bytes()
        if needed > available:
            raise NotEnoughMemory(
                f"running the model layer by layer takes {needed / 1e9:.1f} GB of memory, "
                f"{states_bytes / 1e9:.1f} GB of them for the hidden states of "
                f"{sum(tokens_of_batches)} tokens, and {available / 1e9:.1f} GB are available; "
                "compare fewer pairs of texts (verify --pairs, --quality-pairs of an export), or "
                "on a machine with more"
            )

    def _open(self, layer: LayerSlice, values: Mapping[str, NDArray[Any]]) -> Any:
        """Open the session of one layer; values of a batch tell the types of its inputs."""
        types = {
            name: (ir.DataType.from_numpy(array.dtype), array.ndim)
            for name, array in values.items()
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lasttoken-layer.", dir=self._folder) as folder:
            path = Path(folder) / "layer.onnx"
            ir.save(build_slice(self._model, layer, types), path, external_data="layer.data")
            return self._sessions.open_session(
                path, runtime="onnxruntime-cpu", intra_op_threads=0, config=self._config
            )

    def _inputs(self, rows: Sequence[NDArray[np.int32]]) -> Values:
        """Return a batch's inputs of the graph, as the server's engine makes them."""
        module = server_module(ENCODER, "graph_inputs")
        known = {value.name: value for value in self._model.graph.inputs}
        lengths = np.array([len(row) for row in rows], np.int32)
        found: Values = module.graph_inputs(
            np.concatenate(rows), lengths, shares_prefixes=module.has_shared_inputs(known)
        )
        modulus = int(self._model.metadata_props.get(LONE_ROW, "0"))
        if modulus and len(found["input_ids"]) % modulus == 1:
            found = module.in_company(found)
        if (kept := known.get("kept")) is not None:
            assert kept.dtype is not None
            assert kept.shape is not None
            nothing = np.zeros((0, _size(kept.shape[1])), kept.dtype.numpy())
            found |= module.gather_kept([], nothing)
        return found


def _size(dimension: int | ir.SymbolicDim) -> int:
    assert isinstance(dimension, int)
    return dimension
