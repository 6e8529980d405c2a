"""The packed graph as a TensorRT plan on an NVIDIA GPU, through cuda-bindings alone.

Everything runs on one stream, so batches follow each other in order and share the buffers on the
device; what differs is the page-locked memory on the host, of which there are two sets, so that a
batch is written while the one before it is computed. The buffers of the inputs and the output are
as large as the plan's profile and stay where they are. The scratch memory of the activations is as
large as the largest batch so far needed: its size by the profile's bounds would be that of
``max_rows`` rows of ``max_length`` tokens, which no batch has. When it grows it moves, and CUDA
graphs, which hold its address, are given up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from computed_work import ComputedWork, packed_work
from cuda_device import Cuda
from device_errors import DeviceError, OutOfDeviceMemory, PlanRefused, ShapeBeyondProfile
from encoder_settings import EncoderSettings
from graph_cache import GraphCache, Shape
from graph_inputs import graph_inputs
from numpy.typing import NDArray
from tensorrt_plan import OUTPUT, TensorRTPlan, import_package

_log = logging.getLogger(__name__)

_GRAPHS = 64
_GRAPH_TOKENS = 512
_GRAPH_SIGHTINGS = 3
_SCRATCH_STEP_BYTES = 32 * 2**20


@dataclass(slots=True)
class _HostSet:
    """Page-locked memory of one batch in flight."""

    inputs: dict[str, NDArray[np.int32]]  # as large as the profile, flattened
    embedding: NDArray[np.float32]  # [max_rows, D]
    done: Any
    in_use: bool = False


@dataclass(slots=True)
class _Graph:
    """A shape's own context, and its captured work from the second run on.

    A context of its own: the shared one takes other shapes between two launches.
    """

    context: Any
    executable: Any = None
    capturable: bool = True


def open_tensorrt_engine(version_folder: Path, settings: EncoderSettings) -> TensorRTEngine:
    """Load the plan of a version's folder with the packages that its runtime needs.

    Args:
        version_folder: Holds encoder.plan.
        settings: Name the runtime, and the batches that will be formed.

    Raises:
        DeviceError: A package or a GPU is missing, or the plan is not for this machine.
        PlanRefused: The plan was built for smaller batches than the settings allow.
    """
    cuda = Cuda(import_package("cuda"))
    plan = TensorRTPlan(version_folder / "encoder.plan", trt=import_package(settings.runtime))
    for name, wanted, bound in (
        ("max_batch_tokens", settings.max_batch_tokens, plan.max_tokens),
        ("max_batch_rows", settings.max_batch_rows, plan.max_rows),
        ("max_length", settings.max_length, plan.max_length),
    ):
        if wanted > bound:
            raise PlanRefused(
                f"parameter {name} is {wanted}, but encoder.plan was built for at most {bound}; "
                "lower it in config.pbtxt or export again"
            )
    return TensorRTEngine(plan, cuda)


class TensorRTEngine:
    """Implements `engine.OverlappingEngine`.

    Args:
        plan: The plan on the GPU.
        cuda: The CUDA runtime.

    Raises:
        OutOfDeviceMemory: The buffers, or the scratch memory of a usual batch, do not fit.
    """

    def __init__(self, plan: TensorRTPlan, cuda: Cuda) -> None:
        self._plan = plan
        self._cuda = cuda
        self.runs_beside = False  # one context, one stream
        self.shares_prefixes = plan.shares_prefixes
        self.dimensions: int = plan.dimensions
        self._stream = cuda.new_stream()
        largest = plan.input_shapes((plan.max_tokens, plan.max_rows, plan.max_length))
        self._lengths = {name: math.prod(shape) for name, shape in largest.items()}
        lengths = {**self._lengths, OUTPUT: plan.max_rows * plan.dimensions}
        self._addresses = {name: cuda.allocate(4 * length) for name, length in lengths.items()}
        # Only its shape counts; cleared so that no run depends on what the memory held.
        if slots := self._lengths.pop("slots", None):
            cuda.clear(self._addresses["slots"], 4 * slots, self._stream)
        self._host_sets = [self._new_host_set() for _ in range(2)]
        self._scratch, self._scratch_bytes = 0, 0
        self._context = self._new_context()
        self._graphs: GraphCache[_Graph] = GraphCache(
            # Where the library captures by itself, a second capture could not nest.
            capacity=0 if plan.captures_by_itself else _GRAPHS,
            max_tokens=_GRAPH_TOKENS,
            sightings=_GRAPH_SIGHTINGS,
            discard=self._discard_graph,
        )
        self._set_shapes(self._context, plan.usual)

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """See `engine.Engine.encode`."""
        return self.start(input_ids, row_lengths)()

    def computed_work(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> ComputedWork:
        """See `engine.Engine.computed_work`."""
        inputs = graph_inputs(input_ids, row_lengths, shares_prefixes=self.shares_prefixes)
        return packed_work(inputs["input_ids"], row_lengths)

    def start(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> Callable[[], NDArray[np.float32]]:
        """See `engine.OverlappingEngine.start`.

        Raises:
            ShapeBeyondProfile: The plan was not built for a batch of this size.
            OutOfDeviceMemory: Its activations do not fit.
            DeviceError: CUDA or TensorRT reports an error.
        """
        inputs = graph_inputs(input_ids, row_lengths, shares_prefixes=self.shares_prefixes)
        shape = (len(inputs["input_ids"]), len(row_lengths), int(row_lengths.max()))
        self._check_shape(shape)
        host = next((candidate for candidate in self._host_sets if not candidate.in_use), None)
        if host is None:
            raise RuntimeError("two batches are in flight already; fetch one's vectors first")
        rows = len(row_lengths)
        cuda, stream = self._cuda, self._stream
        try:
            for name, memory in host.inputs.items():
                filled = memory[: inputs[name].size]
                filled[:] = inputs[name].ravel()
                cuda.copy_in(self._addresses[name], filled, stream)
            self._compute(shape)
            cuda.copy_out(host.embedding[:rows], self._addresses[OUTPUT], stream)
            cuda.record(host.done, stream)
        except BaseException:
            cuda.synchronize(stream)  # the copies above still read this set
            raise
        host.in_use = True

        def finish() -> NDArray[np.float32]:
            try:
                cuda.wait(host.done)
                vectors: NDArray[np.float32] = host.embedding[:rows].copy()
                return vectors
            finally:
                host.in_use = False

        return finish

    def _new_host_set(self) -> _HostSet:
        plan, cuda = self._plan, self._cuda
        return _HostSet(
            inputs={
                name: cuda.pinned((length,), np.int32) for name, length in self._lengths.items()
            },
            embedding=cuda.pinned((plan.max_rows, plan.dimensions), np.float32),
            done=cuda.new_event(),
        )

    def _check_shape(self, shape: Shape) -> None:
        plan = self._plan
        bounds = (plan.max_tokens, plan.max_rows, plan.max_length)
        if any(length > bound for length, bound in zip(shape, bounds, strict=True)):
            raise ShapeBeyondProfile(
                f"a batch of {shape[0]} tokens in {shape[1]} rows of up to {shape[2]}; the plan "
                f"was built for {bounds[0]}, {bounds[1]} and {bounds[2]}: lower the limits in "
                "config.pbtxt, or export again with higher ones"
            )

    def _compute(self, shape: Shape) -> None:
        """Put the work of a batch, whose inputs are on the device, on the stream."""
        graph = self._graphs.find(shape)
        if graph is None and self._graphs.is_due(shape):
            # Run once without capture: TensorRT sets a context up for its shapes in the first run.
            context = self._context_for_graph(shape)
            if context is not None:
                self._set_shapes(context, shape)
                self._enqueue(context)
                self._graphs.add(shape, _Graph(context))
                return
        if graph is None:
            self._set_shapes(self._context, shape)
            self._enqueue(self._context)
            return
        if graph.executable is None and graph.capturable:
            self._capture(graph, shape)
        if graph.executable is None:
            self._enqueue(graph.context)
        else:
            self._cuda.launch(graph.executable, self._stream)

    def _capture(self, graph: _Graph, shape: Shape) -> None:
        try:
            graph.executable = self._cuda.capture(
                lambda: self._enqueue(graph.context), self._stream
            )
        except DeviceError as error:
            _log.warning("no CUDA graph for batches of %s: %s", shape, error)
            graph.capturable = False

    def _enqueue(self, context: Any) -> None:
        self._plan.check(context.execute_async_v3(int(self._stream)), "running a batch")

    def _context_for_graph(self, shape: Shape) -> Any | None:
        """Make a context of a shape's own; None where the GPU has no room: it goes without."""
        try:
            return self._new_context()
        except DeviceError as error:
            _log.warning("no CUDA graph for batches of %s: %s", shape, error)
            self._graphs.refuse(shape)
            return None

    def _new_context(self) -> Any:
        context = self._plan.new_context()
        for name, address in self._addresses.items():
            self._plan.check(context.set_tensor_address(name, address), f"setting {name}")
        return context

    def _set_shapes(self, context: Any, shape: Shape) -> None:
        """Tell a context its shapes, and give it as much scratch memory as they need."""
        for name, lengths in self._plan.input_shapes(shape).items():
            self._plan.check(context.set_input_shape(name, lengths), f"{lengths} for {name}")
        needed_bytes = context.update_device_memory_size_for_shapes()
        if needed_bytes > self._scratch_bytes:
            self._grow_scratch(needed_bytes)
        context.set_device_memory(self._scratch, self._scratch_bytes)

    def _grow_scratch(self, needed_bytes: int) -> None:
        self._cuda.synchronize(self._stream)  # work in flight uses the old one
        self._graphs.clear()  # they hold its address
        if self._scratch:
            self._cuda.free(self._scratch)
            self._scratch, self._scratch_bytes = 0, 0
        size_bytes = -(-needed_bytes // _SCRATCH_STEP_BYTES) * _SCRATCH_STEP_BYTES
        try:
            self._scratch = self._cuda.allocate(size_bytes)
        except OutOfDeviceMemory as error:
            raise OutOfDeviceMemory(
                f"the activations of this batch need {size_bytes / 1e9:.2f} GB of GPU memory: "
                f"{error}; lower preferred_batch_tokens or max_length in config.pbtxt"
            ) from None
        self._scratch_bytes = size_bytes

    def _discard_graph(self, graph: _Graph) -> None:
        self._cuda.synchronize(self._stream)  # its last run may be under way
        if graph.executable is not None:
            self._cuda.destroy_executable(graph.executable)
