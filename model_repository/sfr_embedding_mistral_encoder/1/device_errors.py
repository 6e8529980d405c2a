"""Why a GPU engine cannot do what it is asked.

DeviceError
├── MissingPackage        a package of the server's environment is not there
├── PlanRefused           the plan does not load here
├── ShapeBeyondProfile    the plan was not built for batches of this size
├── OutOfDeviceMemory
└── DeviceFailed          CUDA or TensorRT reports an error
"""

from __future__ import annotations


class DeviceError(RuntimeError):
    """Base of the tree."""


class MissingPackage(DeviceError):
    """A package of the server's environment is not there, or cannot be loaded."""


class PlanRefused(DeviceError):
    """The plan is not for this GPU or library, or not for these settings."""


class ShapeBeyondProfile(DeviceError):
    """A batch is larger than the plan was built for."""


class OutOfDeviceMemory(DeviceError):
    """The GPU's memory is used up."""


class DeviceFailed(DeviceError):
    """CUDA or TensorRT reports an error."""
