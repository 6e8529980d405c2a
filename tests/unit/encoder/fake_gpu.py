"""A CUDA runtime and a TensorRT that compute on the CPU, late, and refuse what a GPU forgives not.

Work put on a stream runs only when the stream or an event is waited for, as on a GPU that is slower
than the host: what is read too early, freed too early or overwritten too early shows.
"""

# ruff: noqa: N802, N815 - names of the CUDA runtime
from __future__ import annotations

import ctypes
import enum
import math
import types

import numpy as np

from unit.encoder.fakes import vector_of

DIMENSIONS = 4


class Misuse(AssertionError):
    """The engine did what is undefined on a GPU."""


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class FakeCuda:
    """Stands for ``cuda.bindings.runtime``; one device, its memory in ctypes buffers."""

    cudaError_t = Error
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self, *, memory_bytes=1 << 40):
        self.memory_bytes = memory_bytes
        self.device, self.host = {}, {}  # address: size
        self._kept = []
        self.pending = []
        self.capturing = None
        self.graphs = {}
        self.events = {}
        self.log = []
        self.next_error = Error.cudaSuccess
        self.capture_error = Error.cudaSuccess
        self.work_error = Error.cudaSuccess
        self._next_handle = 1000
        self._next_address = 1 << 40

    # memory

    def cudaMalloc(self, size):
        if sum(self.device.values()) + size > self.memory_bytes:
            return Error.cudaErrorMemoryAllocation, 0
        buffer = np.full(size + 256, 0xA5, np.uint8)  # never zero by itself
        self._kept.append(buffer)  # addresses are never given out twice
        address = -(-buffer.ctypes.data // 256) * 256
        self.device[address] = size
        self.log.append(("malloc", size))
        return Error.cudaSuccess, address

    def cudaFree(self, address):
        if address not in self.device:
            raise Misuse(f"freed {address}, which is not allocated")
        if self.pending:
            raise Misuse("freed device memory while work is in flight")
        size = self.device.pop(address)
        ctypes.memset(address, 0xEE, size)
        self.log.append(("free", size))
        return (Error.cudaSuccess,)

    def cudaHostAlloc(self, size, flags):
        buffer = np.full(size, 0xA5, np.uint8)
        self._kept.append(buffer)
        self.host[buffer.ctypes.data] = size
        return Error.cudaSuccess, buffer.ctypes.data

    def _within(self, blocks, address, size, what):
        if not any(a <= address and address + size <= a + s for a, s in blocks.items()):
            raise Misuse(f"{what}: {size} bytes at {address} are not allocated")

    # streams and events

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        return Error.cudaSuccess, self._handle()

    def _handle(self):
        self._next_handle += 1
        return self._next_handle

    def put(self, work):
        """Put work on the stream, or into the graph that is being captured."""
        (self.pending if self.capturing is None else self.capturing).append(work)

    def _run(self, upto=None):
        if self.capturing is not None:
            raise Misuse("waited while capturing")
        while self.pending:
            work = self.pending.pop(0)
            if work is upto:
                break
            work()

    def cudaStreamSynchronize(self, stream):
        self._run()
        error, self.work_error = self.work_error, Error.cudaSuccess
        return (error,)

    def cudaEventCreateWithFlags(self, flags):
        self.log.append(("event", flags))
        return Error.cudaSuccess, self._handle()

    def cudaEventRecord(self, event, stream):
        def mark():
            self.events[event] = True

        self.events[event] = mark
        self.put(mark)
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event):
        mark = self.events.get(event)
        if mark is None:
            raise Misuse("waited for an event that was never recorded")
        if mark is not True:
            self._run(upto=mark)
            self.events[event] = True
        error, self.work_error = self.work_error, Error.cudaSuccess
        return (error,)

    # copies

    def cudaMemsetAsync(self, address, value, size, stream):
        self._within(self.device, address, size, "memset")
        self.put(lambda: ctypes.memset(address, value, size))
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to, source, size, kind, stream):
        if self.next_error:
            error, self.next_error = self.next_error, Error.cudaSuccess
            return (error,)
        inward = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        device, host = (to, source) if inward else (source, to)

        def copy():
            self._within(self.device, device, size, "copy")
            self._within(self.host, host, size, "copy: host memory that is not pinned")
            ctypes.memmove(to, source, size)

        copy_now = copy  # checked when it runs: the memory must still be there
        self.put(copy_now)
        self.log.append(("in" if inward else "out", size))
        return (Error.cudaSuccess,)

    # graphs

    def cudaStreamBeginCapture(self, stream, mode):
        assert self.capturing is None
        self.capturing = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        captured, self.capturing = self.capturing, None
        if self.capture_error:
            error, self.capture_error = self.capture_error, Error.cudaSuccess
            return error, None
        return Error.cudaSuccess, captured

    def cudaGraphInstantiate(self, graph, flags):
        handle = self._handle()
        self.graphs[handle] = list(graph)
        self.log.append(("instantiate", len(graph)))
        return Error.cudaSuccess, handle

    def cudaGraphDestroy(self, graph):
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable, stream):
        if executable not in self.graphs:
            raise Misuse("launched a graph that was destroyed")
        assert self.capturing is None
        for work in self.graphs[executable]:
            self.put(work)
        self.log.append(("launch", executable))
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable):
        if self.pending:
            raise Misuse("destroyed a graph that may be running")
        del self.graphs[executable]
        return (Error.cudaSuccess,)

    def cudaGetErrorString(self, error):
        return Error.cudaSuccess, error.name.encode()

    def cudaGetLastError(self):
        return (Error.cudaSuccess,)


PROFILE = {
    "input_ids": ((1,), (64,), (128,)),
    "row_lengths": ((1,), (4,), (16,)),
    "slots": ((1,), (16,), (64,)),
}
SHARED_PROFILE = {
    "input_ids": PROFILE["input_ids"],
    "row_lengths": PROFILE["row_lengths"],
    "token_of_slot": ((1, 1), (4, 16), (16, 64)),
    "slot_of_token": PROFILE["input_ids"],
}


def batch_shape(shapes):
    """Tokens, rows and longest row."""
    longest = shapes["token_of_slot" if "token_of_slot" in shapes else "slots"][-1]
    return shapes["input_ids"][0], shapes["row_lengths"][0], longest


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    def __init__(self):
        pass


class FakeContext:
    """Computes `fakes.vector_of` of each row when the stream gets there."""

    def __init__(self, engine):
        self._engine = engine
        self._shapes, self._addresses = {}, {}
        self._scratch = (0, 0)
        self.fails = False
        self.runs = 0

    def set_input_shape(self, name, shape):
        lowest, _, highest = self._engine.profile[name]
        if len(shape) != len(lowest):
            raise Misuse(f"{name} has {len(lowest)} dimensions, not {len(shape)}")
        bounded = zip(lowest, shape, highest, strict=True)
        if not all(low <= length <= high for low, length, high in bounded):
            return False
        self._shapes[name] = tuple(shape)
        self._scratch = (0, 0)  # new shapes want it said again
        return True

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def update_device_memory_size_for_shapes(self):
        return self._engine.scratch_bytes(self._shapes)

    def set_device_memory(self, address, size):
        self._scratch = (address, size)

    def execute_async_v3(self, stream_handle):
        cuda = self._engine.cuda
        if set(self._shapes) != set(self._engine.profile):
            raise Misuse("run without the shapes of all inputs")
        if set(self._addresses) != {*self._engine.profile, "embedding"}:
            raise Misuse("run without the addresses of all tensors")
        if cuda.capturing is not None and not self.runs:
            raise Misuse("captured before a first run: TensorRT still sets the context up")
        if self._engine.fails:
            return False
        self.runs += 1
        shapes, addresses, scratch = dict(self._shapes), dict(self._addresses), self._scratch
        cuda.put(lambda: self._compute(shapes, addresses, scratch))
        cuda.log.append(("enqueue", batch_shape(shapes)))
        return True

    def _compute(self, shapes, addresses, scratch):
        cuda, engine = self._engine.cuda, self._engine
        cuda._within(cuda.device, scratch[0], engine.scratch_bytes(shapes), "scratch memory")
        if scratch[1] < engine.scratch_bytes(shapes):
            raise Misuse("the scratch memory is too small for the shapes")
        tokens, rows, longest = batch_shape(shapes)
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        sizes["embedding"] = rows * DIMENSIONS
        for name, length in sizes.items():
            cuda._within(cuda.device, addresses[name], 4 * length, name)

        def array(name, dtype):
            memory = (ctypes.c_byte * (4 * sizes[name])).from_address(addresses[name])
            return np.frombuffer(memory, dtype)

        ids, lengths = array("input_ids", np.int32), array("row_lengths", np.int32)
        if lengths.max() != longest:
            raise Misuse(f"rows of {lengths} in a batch of shapes {shapes}")
        if "slots" in shapes:
            if lengths.sum() != tokens:
                raise Misuse(f"rows of {lengths} in a batch of shapes {shapes}")
            if array("slots", np.int32).any():
                raise Misuse("slots was not cleared")
            parts = np.split(ids, np.cumsum(lengths)[:-1])
        else:
            token_of_slot = array("token_of_slot", np.int32).reshape(rows, longest)
            if token_of_slot.ravel()[array("slot_of_token", np.int32)].tolist() != [*range(tokens)]:
                raise Misuse("a token's slot shows another")
            parts = [ids[row[:n]] for row, n in zip(token_of_slot, lengths, strict=True)]
        vectors = np.stack([vector_of(part) for part in parts])
        array("embedding", np.float32)[:] = vectors.ravel()
        engine.computed.append((tokens, rows, longest))
        # Scratch memory is written to: it may not be anybody else's.
        ctypes.memset(scratch[0], 0x77, engine.scratch_bytes(shapes))


class FakeEngine:
    """Stands for ``trt.ICudaEngine``."""

    def __init__(self, cuda, streamable=0, profile=PROFILE):
        self.cuda = cuda
        self.profile = profile
        self.streamable_weights_size = streamable
        self.weight_streaming_budget_v2 = None
        self.num_io_tensors = len(profile) + 1
        self.computed, self.contexts = [], []
        self.fails = False
        self.refuses_contexts = False

    def scratch_bytes(self, shapes):
        _, rows, longest = batch_shape(shapes)
        return 1024 * rows * longest

    def get_tensor_name(self, index):
        return [*self.profile, "embedding"][index]

    def get_tensor_profile_shape(self, name, profile_index):
        return list(self.profile[name])

    def get_tensor_shape(self, name):
        return (-1, DIMENSIONS)

    def get_weight_streaming_automatic_budget(self):
        if self.contexts:
            raise Misuse("the budget must be set before a context is made")
        return 12345

    def create_runtime_config(self):
        strategies = types.SimpleNamespace(cuda_graph_strategy=None, allocation=None)

        def set_allocation(strategy):
            strategies.allocation = strategy

        strategies.set_execution_context_allocation_strategy = set_allocation
        return strategies

    def create_execution_context(self, how):
        if self.refuses_contexts:
            return None
        assert getattr(how, "allocation", how) == "user managed"
        self.made_with = how
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]


def fake_tensorrt(engine, *, rtx=False, errors=("the plan is of another version",)):
    """A module like ``tensorrt`` whose runtime loads an engine; None: it refuses the plan."""

    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, data):
            for error in errors if engine is None else ():
                self._logger.log(Logger.ERROR, error)
            return engine

    module = types.SimpleNamespace(
        __name__="tensorrt_rtx" if rtx else "tensorrt",
        __version__="0.0",
        ILogger=Logger,
        Runtime=Runtime,
        ExecutionContextAllocationStrategy=types.SimpleNamespace(USER_MANAGED="user managed"),
    )
    if rtx:
        module.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    return module
