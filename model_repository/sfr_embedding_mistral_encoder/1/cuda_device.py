"""The few calls of the CUDA runtime that an engine needs, with errors raised.

Source: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from device_errors import DeviceFailed, OutOfDeviceMemory
from numpy.typing import NDArray


class Cuda:
    """The CUDA runtime, on the first device.

    Args:
        runtime: The module ``cuda.bindings.runtime``.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._kinds = runtime.cudaMemcpyKind

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
        """Call a function, raise its error, return its value if it has one."""
        error, *values = function(*arguments)
        if int(error):
            _, text = self._runtime.cudaGetErrorString(error)
            message = f"{function.__name__}: {text.decode()} (CUDA error {int(error)})"
            if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
                self._runtime.cudaGetLastError()  # or the next call would report it again
                raise OutOfDeviceMemory(message)
            raise DeviceFailed(message)
        return values[0] if values else None

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory, aligned to 256 bytes."""
        return int(self._call(self._runtime.cudaMalloc, size_bytes))

    def free(self, address: int) -> None:
        """Free device memory that no work in flight uses."""
        self._call(self._runtime.cudaFree, address)

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """Return an array in page-locked host memory, which copies can overlap with work.

        It lives as long as the process.
        """
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        flags = self._runtime.cudaHostAllocDefault
        address = int(self._call(self._runtime.cudaHostAlloc, size_bytes, flags))
        memory = (ctypes.c_byte * size_bytes).from_address(address)
        return np.ndarray(shape, dtype, buffer=memoryview(memory))

    def new_stream(self) -> Any:
        """Return a stream that does not wait for the default one."""
        return self._call(
            self._runtime.cudaStreamCreateWithFlags, self._runtime.cudaStreamNonBlocking
        )

    def synchronize(self, stream: Any) -> None:
        """Wait for everything on a stream."""
        self._call(self._runtime.cudaStreamSynchronize, stream)

    def new_event(self) -> Any:
        """Return an event without timing, whose waiting thread sleeps.

        Of itself a thread waits awake: a core for each batch, which tokenizer and server then lack.
        """
        flags = self._runtime.cudaEventDisableTiming | self._runtime.cudaEventBlockingSync
        return self._call(self._runtime.cudaEventCreateWithFlags, flags)

    def record(self, event: Any, stream: Any) -> None:
        """Let an event happen when what is on the stream now is done."""
        self._call(self._runtime.cudaEventRecord, event, stream)

    def wait(self, event: Any) -> None:
        """Wait until an event has happened; errors of the work before it are raised here."""
        self._call(self._runtime.cudaEventSynchronize, event)

    def clear(self, address: int, size_bytes: int, stream: Any) -> None:
        """Fill device memory with zeros."""
        self._call(self._runtime.cudaMemsetAsync, address, 0, size_bytes, stream)

    def copy_in(self, address: int, source: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous pinned array to the device; it must not change until that is done."""
        kind = self._kinds.cudaMemcpyHostToDevice
        self._copy(address, source.ctypes.data, source.nbytes, kind, stream)

    def copy_out(self, destination: NDArray[Any], address: int, stream: Any) -> None:
        """Copy from the device into a contiguous pinned array."""
        kind = self._kinds.cudaMemcpyDeviceToHost
        self._copy(destination.ctypes.data, address, destination.nbytes, kind, stream)

    def _copy(self, to: int, source: int, size_bytes: int, kind: Any, stream: Any) -> None:
        self._call(self._runtime.cudaMemcpyAsync, to, source, size_bytes, kind, stream)

    def capture(self, work: Callable[[], None], stream: Any) -> Any:
        """Return an executable graph of the work that a function puts on a stream.

        Nothing runs; the stream is usable again also where the function or the capture fails.
        """
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(runtime.cudaStreamBeginCapture, stream, mode)
        try:
            work()
        except BaseException:
            runtime.cudaStreamEndCapture(stream)  # its own error is the consequence of the first
            raise
        graph = self._call(runtime.cudaStreamEndCapture, stream)
        try:
            return self._call(runtime.cudaGraphInstantiate, graph, 0)
        finally:
            self._call(runtime.cudaGraphDestroy, graph)

    def launch(self, executable: Any, stream: Any) -> None:
        """Put a captured graph's work on a stream."""
        self._call(self._runtime.cudaGraphLaunch, executable, stream)

    def destroy_executable(self, executable: Any) -> None:
        """Give a captured graph back."""
        self._call(self._runtime.cudaGraphExecDestroy, executable)
