"""Denormal numbers count as zero on the thread that asks for it.

Attention gives every masked cell the smallest exponential there is, 4e-39, which is denormal; x86
processors take some hundred cycles for each. They are added to sums of at least 1 in float32, so
they are zero in effect. ONNX Runtime's option `SESSION_OPTION` says so to its own threads, but the
thread that calls ``run`` computes as well, and it is told only if it made the process's first
session.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, 10.2.3.3 and
10.2.3.4 (flush to zero, denormals are zero); `SetDenormalAsZero` and `InferenceSession` in
https://github.com/microsoft/onnxruntime.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

SESSION_OPTION = "session.set_denormal_as_zero"
_FLUSH_TO_ZERO, _DENORMALS_ARE_ZERO = 1 << 15, 1 << 6


class _Environment(ctypes.Structure):
    """fenv_t of x86-64, the same in glibc and musl: <bits/fenv.h>."""

    _fields_ = (("x87", ctypes.c_uint32 * 7), ("mxcsr", ctypes.c_uint32))


# Other processors keep their speed with denormals, or have no such switch.
_MATH = (
    ctypes.CDLL("libm.so.6")
    if (platform.system(), platform.machine()) == ("Linux", "x86_64")
    and platform.libc_ver()[0] == "glibc"
    else None
)


@contextmanager
def kept_environment() -> Iterator[None]:
    """Keep the thread's way with denormals, whatever is called inside."""
    if _MATH is None:
        yield
        return
    before = _Environment()
    _MATH.fegetenv(ctypes.byref(before))
    try:
        yield
    finally:
        _MATH.fesetenv(ctypes.byref(before))


@contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Take denormals for zero on this thread inside, where the processor can."""
    with kept_environment():
        if _MATH is not None:
            flushing = _Environment()
            _MATH.fegetenv(ctypes.byref(flushing))
            flushing.mxcsr |= _FLUSH_TO_ZERO | _DENORMALS_ARE_ZERO
            _MATH.fesetenv(ctypes.byref(flushing))
        yield
