"""What the suite measures, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import InvalidSuite
from lasttoken_perf.gpu_suite.shapes import SHAPES, shape_config

FLOAT_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes an element by precision."""
DEVICES = ("cuda", "cpu")
_MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSettings:
    """What every step is told.

    Attributes:
        shape: One of `SHAPES`.
        device: ``cuda``, or ``cpu`` for a trial of everything but the GPU.
        precision: Of weights and activations: fp32, fp16 or bf16.
        rows: Texts of a corpus.
        queries: Single texts that are timed one by one.
        batch_tokens: Most tokens of a batch.
        repeats: Timed passes of every load.
        seed: Decides weights, lengths and tokens.
        work_folder: Keeps the graph, the repository and the reference's vectors between steps.

    Raises:
        InvalidSuite: A value is not one of those known, or out of range.
    """

    shape: str
    device: str
    precision: str
    rows: int
    queries: int
    batch_tokens: int
    repeats: int
    seed: int
    work_folder: Path

    def __post_init__(self) -> None:
        for name, known in (
            ("shape", tuple(SHAPES)),
            ("device", DEVICES),
            ("precision", tuple(FLOAT_BYTES)),
        ):
            if getattr(self, name) not in known:
                raise InvalidSuite(f"{name} is {getattr(self, name)!r}; choose {', '.join(known)}")
        for name in ("rows", "queries", "batch_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise InvalidSuite(f"{name} is {getattr(self, name)!r}; it must be 1 or more")

    @property
    def max_length(self) -> int:
        """Longest row of the served model, in tokens."""
        return min(_MAX_LENGTH, shape_config(self.shape).max_positions)

    @property
    def run_folder(self) -> Path:
        """Part of the work folder whose files belong to these weights and this workload."""
        return self.work_folder / (
            f"{self.shape}-{self.device}-{self.precision}-{self.rows}-{self.queries}-{self.seed}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return {**asdict(self), "work_folder": str(self.work_folder)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SuiteSettings:
        """Read what `to_json` wrote."""
        return cls(**{**values, "work_folder": Path(values["work_folder"])})
