"""The precisions: which exist, what each means, where it runs and what it must reach.

One table for the command line, the catalogue, the graphs and the quality gates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lasttoken_export.errors import InvalidOption

TARGETS = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
"""What a graph is written for; the names of ``--runtime``. ``onnxruntime`` is its CPU provider."""

_TENSORRT = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityGate:
    """What a precision must reach against fp32 on held-out text; None asks nothing.

    Attributes:
        minimum_cosine: Lowest cosine of any text's vector to its fp32 vector.
        mean_cosine: Mean of these cosines.
        ndcg_loss: Largest relative loss of nDCG@10 on the retrieval set: 0.01 is 1 %.
    """

    minimum_cosine: float | None = None
    mean_cosine: float | None = None
    ndcg_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One precision.

    Attributes:
        name: As on the command line and the card.
        meaning: What it is, in a line.
        weights: Element type of the linear layers' weights: a float type, ``int8``, ``fp8`` or
            ``int4``.
        activations: Element type of what enters the linear layers: ``float`` for that of the rest
            of the graph, ``int8`` or ``fp8``.
        float_types: By target, the float types that the rest of the graph may have, best first;
            targets that are not here cannot run it.
        minimum_compute_capability: Of an NVIDIA GPU, major times 10 plus minor: 89 is SM89.
        gate: Default quality gate.
    """

    name: str
    meaning: str
    weights: str
    activations: str
    float_types: Mapping[str, tuple[str, ...]]
    minimum_compute_capability: int
    gate: QualityGate

    @property
    def is_float(self) -> bool:
        """Whether weights and activations are all of one float type."""
        return self.name in FLOATS

    @property
    def is_calibrated(self) -> bool:
        """Whether its scales come from texts."""
        return not self.is_float and self.name != "int8-weights"

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets that can run it."""
        return tuple(self.float_types)


FLOATS = ("fp32", "fp16", "bf16")
"""Precisions that are a float type; a catalogue entry names those in which its model is safe."""

_HALF = dict.fromkeys(_TENSORRT, ("fp16", "bf16"))
_CPU_AND_HALF = {"onnxruntime": ("fp32",), **_HALF}
_EIGHT_BITS = QualityGate(mean_cosine=0.99, ndcg_loss=0.01)
_FOUR_BITS = QualityGate(mean_cosine=0.98, ndcg_loss=0.02)

PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision(
                name="fp32",
                meaning="float32, the reference",
                weights="fp32",
                activations="float",
                float_types=dict.fromkeys(TARGETS, ("fp32",)),
                minimum_compute_capability=75,
                gate=QualityGate(minimum_cosine=0.9999),
            ),
            Precision(
                name="fp16",
                meaning="float16, norms and the final division in float32",
                weights="fp16",
                activations="float",
                float_types=dict.fromkeys(TARGETS, ("fp16",)),
                minimum_compute_capability=75,
                gate=QualityGate(minimum_cosine=0.999),
            ),
            Precision(
                name="bf16",
                meaning="bfloat16, norms and the final division in float32",
                weights="bf16",
                activations="float",
                float_types=dict.fromkeys(TARGETS[1:], ("bf16",)),
                minimum_compute_capability=80,
                gate=QualityGate(minimum_cosine=0.999),
            ),
            Precision(
                name="int8",
                meaning="int8 weights by output channel and int8 activations",
                weights="int8",
                activations="int8",
                float_types=_CPU_AND_HALF,
                minimum_compute_capability=75,
                gate=_EIGHT_BITS,
            ),
            Precision(
                name="int8-weights",
                meaning="int8 weights, activations left as they are",
                weights="int8",
                activations="float",
                float_types=_CPU_AND_HALF,
                minimum_compute_capability=75,
                gate=_EIGHT_BITS,
            ),
            Precision(
                name="fp8",
                meaning="float8 E4M3 weights and activations",
                weights="fp8",
                activations="fp8",
                float_types=_HALF,
                minimum_compute_capability=89,
                gate=_EIGHT_BITS,
            ),
            Precision(
                name="int4",
                meaning="int4 weights in blocks, activations left as they are",
                weights="int4",
                activations="float",
                float_types=_CPU_AND_HALF,
                minimum_compute_capability=80,
                gate=_FOUR_BITS,
            ),
        )
    }
)
"""By name."""


def find_precision(name: str, target: str) -> Precision:
    """Return a precision that a target can run.

    Raises:
        InvalidOption: There is no such precision or target, or the target cannot run it.
    """
    if name not in PRECISIONS:
        raise InvalidOption(f"precision is {name!r}; choose one of {', '.join(PRECISIONS)}")
    if target not in TARGETS:
        raise InvalidOption(f"the target is {target!r}; choose one of {', '.join(TARGETS)}")
    precision = PRECISIONS[name]
    if target not in precision.targets:
        possible = [known.name for known in PRECISIONS.values() if target in known.targets]
        raise InvalidOption(
            f"{target} cannot run {name}; choose {' or '.join(precision.targets)} as the runtime, "
            f"or one of {', '.join(possible)} as the precision"
        )
    return precision


def float_type(name: str, target: str, safe: Collection[str] = FLOATS) -> str | None:
    """Return the float type of what a precision leaves in floats; None where none is safe.

    Args:
        name: Precision.
        target: One of `TARGETS`.
        safe: Float types in which the model's activations stay in range.

    Raises:
        InvalidOption: There is no such precision or target, or the target cannot run it.
    """
    for candidate in find_precision(name, target).float_types[target]:
        if candidate in safe:
            return candidate
    return None


def safe_precisions(target: str, safe: Collection[str]) -> tuple[str, ...]:
    """Return the precisions that a target can run and whose float type is safe."""
    return tuple(
        name
        for name, precision in PRECISIONS.items()
        if target in precision.targets and float_type(name, target, safe) is not None
    )
