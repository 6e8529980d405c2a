"""The quality gate: what a precision must reach, and what a user accepts in its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lasttoken_export.errors import InvalidOption
from lasttoken_export.precisions import PRECISIONS, QualityGate

if TYPE_CHECKING:  # the command line reads FIGURES: it should not wait for ONNX Runtime
    from lasttoken_export.quality.batch_invariance import BatchInvariance
    from lasttoken_export.quality.quality_report import QualityFigures

FIGURES = ("minimum_cosine", "mean_cosine", "ndcg_loss", "batch_invariance")
"""Figures that a gate may bound, by the names that ``--accept-quality`` takes."""

_ONE_SIDED_95_PERCENT = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """How figures stand to a gate.

    Attributes:
        bounds: What was asked, by figure, before anything was accepted.
        accepted: What the user accepted instead: another bound, or None for any value.
        missed: Each figure that missed what is asked of it, in words; empty for a pass.
    """

    bounds: dict[str, float]
    accepted: dict[str, float | None]
    missed: list[str]


def parse_accepted(words: Iterable[str]) -> dict[str, float | None]:
    """Read ``NAME`` or ``NAME=VALUE`` words: the figure to accept, at any value or up to VALUE.

    Raises:
        InvalidOption: There is no such figure, or the value is no finite number.
    """
    accepted: dict[str, float | None] = {}
    for word in words:
        name, given, value = word.partition("=")
        if name not in FIGURES:
            raise InvalidOption(
                f"--accept-quality names {name!r}; the figures with a gate are {', '.join(FIGURES)}"
            )
        try:
            bound = float(value) if given else None
        except ValueError:
            bound = math.nan
        if bound is not None and not math.isfinite(bound):
            raise InvalidOption(
                f"--accept-quality {word!r}: {value!r} is no number; write {name}=0.97, say, or "
                f"{name} for any value"
            )
        accepted[name] = bound
    return accepted


def check_accepted(accepted: Iterable[str], precision: str) -> None:
    """Refuse to accept a figure that a precision does not bound: that would do nothing.

    Args:
        accepted: Names of figures.
        precision: One of `PRECISIONS`.

    Raises:
        InvalidOption: It bounds another.
    """
    bounded = [*_bounds(PRECISIONS[precision].gate), "batch_invariance"]
    for name in accepted:
        if name not in bounded:
            raise InvalidOption(
                f"--accept-quality {name}: the gate of {precision} does not ask for it, but for "
                f"{', '.join(bounded)}; leave it out"
            )


def _bounds(gate: QualityGate) -> dict[str, float]:
    return {
        name: bound
        for name in ("minimum_cosine", "mean_cosine", "ndcg_loss")
        if (bound := getattr(gate, name)) is not None
    }


def check_gate(
    figures: QualityFigures,
    invariance: BatchInvariance | None,
    gate: QualityGate,
    accepted: Mapping[str, float | None],
    *,
    ndcg_standard_errors: float = 0.0,
) -> GateResult:
    """Compare figures with a gate. A vector that is not finite is never acceptable.

    Args:
        figures: Of the artefact.
        invariance: Whether batches change vectors; None where that was not checked.
        gate: Default bounds of the precision.
        accepted: From `parse_accepted`; replaces bounds, and adds none.
        ndcg_standard_errors: How many standard errors of nDCG's change are put down to chance: on
            few queries one that moves by a rank is worth half a percent.
    """
    bounds = _bounds(gate)
    asked = {name: accepted.get(name, bound) for name, bound in bounds.items()}
    missed = []
    if figures.not_finite:
        missed.append(f"{figures.not_finite} vectors hold NaN or infinity")
    for name in ("minimum_cosine", "mean_cosine"):
        value, bound = getattr(figures, name), asked.get(name)
        if bound is not None and not value >= bound:
            missed.append(f"{name} is {value:.5f}, at least {bound:g} is asked")
    loss, bound = -figures.ndcg_change, asked.get("ndcg_loss")
    chance = ndcg_standard_errors * figures.ndcg_change_error
    if bound is not None and not loss - chance <= bound:
        missed.append(
            f"ndcg_loss is {loss:.4f} (chance {chance:.4f} put aside), at most {bound:g} is asked"
        )
    if invariance is not None and not invariance.bitwise_batch_invariant:
        difference = invariance.largest_batch_difference  # None where it is not finite
        bound = accepted.get("batch_invariance")
        if "batch_invariance" not in accepted or difference is None:
            missed.append(
                f"batch_invariance: vectors change with their batch, by up to {difference}"
            )
        elif bound is not None and not difference <= bound:
            missed.append(
                f"batch_invariance: vectors change with their batch, by up to {difference:.3g}, at "
                f"most {bound:g} is asked"
            )
    return GateResult(bounds=bounds, accepted=dict(accepted), missed=missed)


CHANCE_AT_EXPORT = _ONE_SIDED_95_PERCENT
"""Standard errors put aside on the quick set of an export; none by ``verify`` on the whole set."""
