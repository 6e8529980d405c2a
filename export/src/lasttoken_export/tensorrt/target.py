"""The GPU that a plan is built for: the one in this machine, or one named by its capability."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import Any

from lasttoken_export.errors import InvalidOption, UnsupportedDevice
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.tensorrt.library import TensorRTLibrary

_NAME_BYTES = 256
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDevice:
    """What a plan runs on.

    Attributes:
        compute_capability: Major times 10 plus minor: 89 is SM89, 120 is SM120.
        name: Name of the GPU in this machine; None for any GPU of that capability.
    """

    compute_capability: int
    name: str | None

    def __str__(self) -> str:
        capability = format_capability(self.compute_capability)
        return f"{self.name} (compute capability {capability})" if self.name else capability


def format_capability(compute_capability: int) -> str:
    """Write 89 as NVIDIA does: ``8.9``."""
    return f"{compute_capability // 10}.{compute_capability % 10}"


def parse_capability(text: str) -> int:
    """Read ``8.9``, ``89`` or ``sm89`` as 89.

    Raises:
        InvalidOption: It is none of these.
    """
    found = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip(), re.IGNORECASE)
    if not found:
        raise InvalidOption(
            f"the compute capability is {text!r}; write it as 8.9 (RTX 40, L4) or 12.0 (RTX 50); "
            "nvidia-smi --query-gpu=compute_cap --format=csv shows that of a GPU"
        )
    return int(found[1]) * 10 + int(found[2])


def find_target(library: TensorRTLibrary, wanted: int | None) -> TargetDevice:
    """Return the device to build for.

    Args:
        library: Builds the plan.
        wanted: Compute capability asked for; None for the GPU in this machine.

    Raises:
        UnsupportedDevice: There is no GPU and none was named, or the library cannot build for it.
    """
    here = gpu_in_this_machine()
    if library.is_rtx:
        if wanted is None and here is None:
            raise UnsupportedDevice(
                "there is no NVIDIA GPU in this machine to build the plan for; name the one that "
                "it will run on: --compute-capability with one of "
                f"{', '.join(map(format_capability, rtx_capabilities(library)))}"
            )
        target = here if here and wanted in (None, here.compute_capability) else None
        # RTX plans run on every GPU of a capability: the name of the one at hand decides nothing.
        capability = target.compute_capability if target else wanted
        assert capability is not None
        if capability not in rtx_capabilities(library):
            raise UnsupportedDevice(
                f"TensorRT-RTX {library.version} cannot build for compute capability "
                f"{format_capability(capability)}, only for "
                f"{', '.join(map(format_capability, rtx_capabilities(library)))}; data-centre GPUs "
                "such as H100 and H200 need --runtime tensorrt on a machine that has one"
            )
        return TargetDevice(compute_capability=capability, name=None)
    if here is None:
        raise UnsupportedDevice(
            "TensorRT times kernels on the GPU that the plan will run on, and there is none in "
            "this machine; export on the target, or choose --runtime tensorrt-rtx for an RTX GPU"
        )
    if wanted not in (None, here.compute_capability):
        raise UnsupportedDevice(
            f"TensorRT builds for the GPU at hand only, a {here}, not for compute capability "
            f"{format_capability(wanted or 0)}; leave --compute-capability out, or export on the "
            "target"
        )
    return here


def check_precision_on_target(precision: str, target: TargetDevice) -> None:
    """Refuse a precision that the target has no arithmetic for.

    Raises:
        UnsupportedDevice: It has none.
    """
    needed = PRECISIONS[precision].minimum_compute_capability
    if target.compute_capability >= needed:
        return
    possible = [
        name
        for name, known in PRECISIONS.items()
        if known.minimum_compute_capability <= target.compute_capability
        and "tensorrt" in known.targets
    ]
    raise UnsupportedDevice(
        f"{precision} needs a GPU of compute capability {format_capability(needed)} or above, the "
        f"target is {target}; choose one of {', '.join(possible)}"
    )


def rtx_capabilities(library: TensorRTLibrary) -> list[int]:
    """Return the compute capabilities that a TensorRT-RTX library says it can build for."""
    names = dir(library.module.ComputeCapability)
    return sorted(int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name))


def gpu_in_this_machine() -> TargetDevice | None:
    """Return the first NVIDIA GPU, or None where there is none or no driver.

    The driver itself is asked: it is there wherever a GPU can be used, and is of no CUDA version
    that a package would have to match.

    Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    calls: tuple[tuple[Any, ...], ...] = (
        (driver.cuInit, 0),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDeviceGetName, name, _NAME_BYTES, device),
        (driver.cuDeviceGetAttribute, ctypes.byref(major), _CAPABILITY_MAJOR, device),
        (driver.cuDeviceGetAttribute, ctypes.byref(minor), _CAPABILITY_MINOR, device),
    )
    if any(call(*arguments) for call, *arguments in calls):  # each returns 0 where it succeeds
        return None
    return TargetDevice(compute_capability=major.value * 10 + minor.value, name=name.value.decode())
