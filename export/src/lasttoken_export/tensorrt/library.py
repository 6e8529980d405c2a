"""The two libraries that build plans: enterprise TensorRT and TensorRT-RTX, one interface."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from lasttoken_export.errors import MissingLibrary

PLAN_RUNTIMES = ("tensorrt", "tensorrt-rtx")
"""Names on the command line and of the encoder's parameter ``runtime``."""

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL = {
    # What PyPI calls tensorrt is a stub without libraries.
    "tensorrt": "pip install --extra-index-url https://pypi.nvidia.com 'tensorrt-cu13>=11'",
    "tensorrt-rtx": "pip install 'lasttoken-export[tensorrt-rtx]'",
}
_NEEDED = ("IAttentionOutputLayer", "IStreamWriter", "IProgressMonitor")
"""Classes that came last of those used here, in TensorRT 11 and TensorRT-RTX 1.7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTLibrary:
    """An imported library.

    Attributes:
        runtime: One of `PLAN_RUNTIMES`.
        module: ``tensorrt`` or ``tensorrt_rtx``.
        version: As it says itself.
    """

    runtime: str
    module: Any
    version: str

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, which compiles for GPUs that are not at hand."""
        return self.runtime == "tensorrt-rtx"


def load_library(runtime: str) -> TensorRTLibrary:
    """Import the library of a runtime.

    Args:
        runtime: One of `PLAN_RUNTIMES`.

    Raises:
        MissingLibrary: It is not installed, cannot be loaded or is too old.
    """
    name = _MODULES[runtime]
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise MissingLibrary(
            f"--runtime {runtime} needs the Python package {name!r}, which cannot be imported "
            f"({error}); install it: {_INSTALL[runtime]}"
        ) from None
    version = getattr(module, "__version__", "unknown")
    missing = [needed for needed in _NEEDED if not hasattr(module, needed)]
    if missing:
        raise MissingLibrary(
            f"{name} {version} is too old: it has no {', '.join(missing)}; install a newer one: "
            f"{_INSTALL[runtime]}"
        )
    return TensorRTLibrary(runtime=runtime, module=module, version=version)
