"""Whether ONNX Runtime's products of bytes are exact on this processor.

x86 processors multiply unsigned codes by signed weights. Without VNNI that adds two products in 16
bits, which saturate: 255 * 127 twice is no number of 16 bits. ONNX Runtime then has kernels of
unsigned weights, exact and slower, and takes them with `EXACT_OPTIONS`. It does so with VNNI too,
where they would only be slower, so the processor is asked first.

Source: "Nuances of int8 Computations" in the oneDNN developer guide; MlasPlatformU8S8Overflow and,
for the flags, MLAS_PLATFORM in https://github.com/microsoft/onnxruntime.
"""

from __future__ import annotations

import platform
from collections.abc import Set as AbstractSet
from pathlib import Path

EXACT_OPTIONS = {
    "session.x64quantprecision": "1",
    # Weights between Quantize- and DequantizeLinear are not multiplied as bytes; left alone, as
    # ONNX Runtime 1.32 gives those in blocks a zero point of a shape that it then refuses.
    "session.qdqisint8allowed": "1",
}
"""Entries of a session's configuration."""
_AVX512 = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl"))


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features that Linux names of the first processor; none where it names none.

    Args:
        cpuinfo: Where it names them: proc_cpuinfo(5).
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    listed = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(listed, "").split())


def int8_products_saturate(flags: AbstractSet[str], machine: str | None = None) -> bool:
    """Tell whether products of unsigned by signed bytes can be wrong.

    Args:
        flags: Of `processor_flags`; a processor that names none is taken for one that saturates.
        machine: Architecture by the name that `platform.machine` has for it; None for this one.
    """
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        return False
    # With AVX-512 ONNX Runtime takes its kernels, whatever AVX has.
    return ("avx512_vnni" if flags >= _AVX512 else "avx_vnni") not in flags
