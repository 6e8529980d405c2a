"""What can be read from a serialised plan without a GPU.

TensorRT's inspector needs a deserialised engine and so a GPU. The plan itself holds the compiler's
listing as text: a line for each constant, with its type and size, one for each matrix product, and
one for each call of a fused attention kernel. The form of these lines is not documented; it was
seen in plans of TensorRT-RTX 1.7 with detailed profiling verbosity. Tests and the table of plans
read it, nothing else.
"""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CONSTANT = re.compile(
    rb"tensor=\{ [^{}]*?const_payload_size=(\d+) dims=\{[^{}]*\} name=\"([^\"]*)\"[^}]*"
    rb"(?:\{[^}]*\}[^}]*)*?type=(\w+) \}"
)
_PRODUCT = re.compile(
    rb"fully_connected=\{ name=\"[^\"]*\" output=\{[^}]*\} input=\{\"[^\"]*\" \"([^\"]*)\""
)
_FUSED_ATTENTION = re.compile(rb"function=\{ name=_gemm_mha\w* ")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContents:
    """What a plan holds.

    Attributes:
        constant_bytes: Bytes of constants by type: ``half``, ``int8``, ...
        products: Matrix products by the type of the constant that they multiply by: ``int8`` where
            the arithmetic is int8's; ``computed`` where the weights are dequantised first, or where
            the product is of two activations.
        fused_attentions: Calls of fused attention kernels.
    """

    constant_bytes: Mapping[str, int]
    products: Mapping[str, int]
    fused_attentions: int


def read_plan(plan: Path) -> PlanContents:
    """Read a plan's listing.

    Args:
        plan: Path of the plan.
    """
    sizes: Counter[str] = Counter()
    types: dict[bytes, str] = {}
    with plan.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for found in _CONSTANT.finditer(data):
            types[found[2]] = found[3].decode()
            sizes[types[found[2]]] += int(found[1])
        products = Counter(types.get(found[1], "computed") for found in _PRODUCT.finditer(data))
        attentions = sum(1 for _ in _FUSED_ATTENTION.finditer(data))
    return PlanContents(
        constant_bytes=dict(sizes), products=dict(products), fused_attentions=attentions
    )
