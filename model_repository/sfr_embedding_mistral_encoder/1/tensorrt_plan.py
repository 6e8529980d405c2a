"""A plan loaded onto the GPU, by TensorRT or TensorRT-RTX, and the contexts that run it."""

from __future__ import annotations

import importlib
import logging
import mmap
from pathlib import Path
from typing import Any

from device_errors import DeviceFailed, MissingPackage, OutOfDeviceMemory, PlanRefused
from graph_cache import Shape
from graph_inputs import PLAIN_INPUTS, SHARED_INPUTS, has_shared_inputs

_log = logging.getLogger(__name__)

_PACKAGES = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx",
    "cuda": "cuda.bindings.runtime",
}
_INSTALL = {
    "tensorrt": "pip install --extra-index-url https://pypi.nvidia.com 'tensorrt-cu13>=11'",
    "tensorrt-rtx": "pip install 'tensorrt-rtx-cu13>=1.7'",
    "cuda": "pip install 'cuda-bindings>=13'",
}
OUTPUT = "embedding"


def import_package(name: str) -> Any:
    """Import one of `_PACKAGES` into the server.

    Raises:
        MissingPackage: It is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(_PACKAGES[name])
    except (ImportError, OSError) as error:
        raise MissingPackage(
            f"the plan needs the Python module {_PACKAGES[name]!r} ({error}); install it in the "
            f"server's environment: {_INSTALL[name]}"
        ) from None


def make_logger(trt: Any) -> Any:
    """Return an ``ILogger`` that hands lines on to `logging`.

    It keeps the text of the last error, and of the last error or warning, and whether any error
    said that memory had run out: the last one of several is often only a consequence.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = self.last_words = "no reason given"
            self.ran_out_of_memory = False

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.last_error = self.last_words = message
                # "Cuda Runtime (out of memory)", then "Error Code 2: OutOfMemory (...)".
                self.ran_out_of_memory |= "outofmemory" in message.lower().replace(" ", "")
                _log.error("%s", message)
            elif severity == trt.ILogger.WARNING:
                self.last_words = message
                _log.warning("%s", message)

    return Logger()


class TensorRTPlan:
    """A deserialised plan.

    Args:
        plan: Path of encoder.plan.
        trt: ``tensorrt`` or ``tensorrt_rtx``.

    Attributes:
        max_tokens: Most tokens of a batch.
        max_rows: Most rows of a batch.
        max_length: Longest row.
        usual: Tokens, rows and longest row that the plan is tuned for.
        shares_prefixes: Whether the graph's rows share tokens; see graph_inputs.py.
        dimensions: Elements of a vector.
        captures_by_itself: Whether the library makes CUDA graphs of frequent shapes on its own.

    Raises:
        PlanRefused: It is not for this GPU or library, or not an encoder's.
        OutOfDeviceMemory: It does not fit.
        DeviceFailed: There is no GPU, or no driver for it.
    """

    def __init__(self, plan: Path, *, trt: Any) -> None:
        self._trt = trt
        self._logger = make_logger(trt)
        try:
            self._runtime = trt.Runtime(self._logger)
        except TypeError:  # the bindings' word for a null pointer
            raise DeviceFailed(
                f"{trt.__name__} {trt.__version__} finds no usable GPU: {self._logger.last_words}; "
                "nvidia-smi shows whether there is one and which CUDA its driver is for"
            ) from None
        with plan.open("rb") as file:
            # Mapped, not read: the weights go to the GPU without a second copy in memory.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            reason = f"{plan} cannot be loaded by {trt.__name__} {trt.__version__}: "
            if self._logger.ran_out_of_memory:
                raise OutOfDeviceMemory(
                    f"{reason}the GPU's free memory does not hold its {len(data) / 1e9:.1f} GB "
                    f"({self._logger.last_error}); see with nvidia-smi what else is on the GPU, or "
                    "export in a smaller precision or with --weight-streaming"
                )
            raise PlanRefused(
                f"{reason}{self._logger.last_error}; a plan belongs to the library's version and "
                "the GPU that it was built for, as card.json says: export again for this machine"
            )
        names = {
            self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)
        }
        if names not in ({*PLAIN_INPUTS, OUTPUT}, {*SHARED_INPUTS, OUTPUT}):
            raise PlanRefused(f"{plan} has the tensors {sorted(names)}: not an encoder's plan")
        self.shares_prefixes = has_shared_inputs(names)
        _, self.usual, highest = (self._batch_shape(which) for which in range(3))
        self.max_tokens, self.max_rows, self.max_length = highest
        self.dimensions = int(self._engine.get_tensor_shape(OUTPUT)[1])
        if self._engine.streamable_weights_size:
            # Before any context: it decides what stays on the GPU.
            budget = self._engine.get_weight_streaming_automatic_budget()
            self._engine.weight_streaming_budget_v2 = budget
            _log.info(
                "weights of %.1f GB streamed within %.1f GB of GPU memory",
                self._engine.streamable_weights_size / 1e9,
                budget / 1e9,
            )
        self.captures_by_itself = hasattr(trt, "CudaGraphStrategy")

    def _batch_shape(self, which: int) -> Shape:
        """Tokens, rows and longest row of the profile's lowest, usual or highest shapes."""

        def last(name: str) -> int:
            return int(self._engine.get_tensor_profile_shape(name, 0)[which][-1])

        longest = last("token_of_slot" if self.shares_prefixes else "slots")
        return last("input_ids"), last("row_lengths"), longest

    def input_shapes(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input of a batch.

        Args:
            shape: Its tokens, rows and longest row.
        """
        tokens, rows, longest = shape
        shapes: dict[str, tuple[int, ...]] = {"input_ids": (tokens,), "row_lengths": (rows,)}
        if self.shares_prefixes:
            return shapes | {"token_of_slot": (rows, longest), "slot_of_token": (tokens,)}
        return shapes | {"slots": (longest,)}

    def new_context(self) -> Any:
        """Return an execution context whose scratch memory is given to it.

        TensorRT-RTX compiles kernels while it runs and knows when a shape is ready to be captured;
        it is told to make its own CUDA graphs.
        Source: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-cuda-graphs.html
        """
        user_managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.captures_by_itself:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(user_managed)
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(user_managed)
        if context is None:
            raise OutOfDeviceMemory(f"no execution context can be made: {self._logger.last_error}")
        return context

    def check(self, succeeded: bool, what: str) -> None:
        """Raise TensorRT's own words where a call of a context's failed.

        Raises:
            DeviceFailed: It did.
        """
        if not succeeded:
            raise DeviceFailed(f"TensorRT: {what} failed: {self._logger.last_error}")
