"""What is compared: modelopt's configurations, and our precisions by target."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

OURS, MODELOPT = "lasttoken", "modelopt"
"""Subjects of the rows."""

OWN_BLOCK = 32
"""Inputs of a linear layer that share a scale in our int4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeloptScheme:
    """One way to quantise with modelopt.

    Attributes:
        precision: Ours that it is compared with.
        config: Name of the configuration in ``modelopt.torch.quantization``.
        block_size: Replaces that of the configuration's weights; None to leave it.
        linears_only: Whether the inputs of norms, which the configuration quantises where they are
            torch's own ``LayerNorm``, are left alone.
    """

    precision: str
    config: str | None
    block_size: int | None = None
    linears_only: bool = False

    @property
    def variant(self) -> str:
        """What tells it from the others of its precision."""
        parts = [self.config or "not quantised"]
        if self.block_size is not None:
            parts.append(f"blocks of {self.block_size}")
        if self.linears_only:
            parts.append("linear layers only")
        return ", ".join(parts)


UNQUANTISED = ModeloptScheme(precision="fp32", config=None)

SCHEMES = (
    ModeloptScheme(precision="int8", config="INT8_SMOOTHQUANT_CFG"),
    ModeloptScheme(precision="int8", config="INT8_DEFAULT_CFG"),
    ModeloptScheme(precision="fp8", config="FP8_DEFAULT_CFG"),
    ModeloptScheme(precision="int4", config="INT4_AWQ_CFG"),
    ModeloptScheme(precision="int4", config="INT4_AWQ_CFG", block_size=OWN_BLOCK),
)

DEFAULT_BLOCK = 128
"""Of ``INT4_AWQ_CFG``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnGraph:
    """One of our graphs.

    Attributes:
        precision: Of `lasttoken_export.precisions`.
        target: What it is written for; ONNX Runtime's CPU provider runs it here.
    """

    precision: str
    target: str

    @property
    def variant(self) -> str:
        """What tells it from the others of its precision."""
        return f"graph for {self.target}"


OWN_GRAPHS = (
    OwnGraph(precision="int8", target="onnxruntime"),
    OwnGraph(precision="int8", target="tensorrt-rtx"),
    OwnGraph(precision="fp8", target="tensorrt-rtx"),
    OwnGraph(precision="int4", target="onnxruntime"),
)


def undivided_widths(widths: Collection[int], block: int = DEFAULT_BLOCK) -> list[int]:
    """Return the numbers of inputs that blocks of a size do not divide, smallest first."""
    return sorted({width for width in widths if width % block})
