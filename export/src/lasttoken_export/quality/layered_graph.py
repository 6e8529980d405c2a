"""A packed graph that is larger than memory, run a layer at a time.

All batches go through one layer before the next is read: weights are read once for all of them,
and what is in memory is a layer, and the hidden states of all tokens.
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
Values = dict[str, NDArray[Any]]


class LayeredGraph:
    """Runs a packed graph on ONNX Runtime's CPU provider, its layers one after the other.

    Args:
        model: Of `PackedGraph.build`, or read from a file.
        folder: An existing one, where a layer's weights are written for as long as it runs.
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
        self._check_memory(sum(len(row) for rows in batches for row in rows))
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

    def _check_memory(self, tokens: int) -> None:
        states_bytes = 2 * 4 * tokens * self._dimensions  # before a layer and behind it
        # In floats, as the file holds them and as products take them.
        weight_bytes = 2 * 4 * max(layer.weight_elements for layer in self._slices)
        needed, available = weight_bytes + states_bytes, available_memory_bytes()
        if needed > available:
            raise NotEnoughMemory(
                f"running the model layer by layer takes {needed / 1e9:.1f} GB of memory, "
                f"{states_bytes / 1e9:.1f} GB of them for the hidden states of {tokens} tokens, "
                f"and {available / 1e9:.1f} GB are available; compare fewer pairs of texts, or on "
                "a machine with more"
            )

    def _open(self, layer: LayerSlice, values: Mapping[str, NDArray[Any]]) -> Any:
        """Open the session of one layer; values of a batch tell the types of its inputs."""
        types = {
            name: (ir.DataType.from_numpy(array.dtype), array.ndim)
            for name, array in values.items()
        }
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
