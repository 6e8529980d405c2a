"""Vectors of transformers, kept for the steps that follow, and how close others must come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.results import Row

LOWEST_COSINE: Mapping[str, float] = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99}
"""By what is compared; the reference computes in float32 on the very same values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How close vectors are to the reference's.

    Attributes:
        texts: Texts compared.
        mean_cosine: Mean cosine of a text's two vectors.
        minimum_cosine: Lowest of them.
    """

    texts: int
    mean_cosine: float
    minimum_cosine: float

    def fields(self) -> Row:
        """Return it as fields of a row."""
        return {"mean_cosine": self.mean_cosine, "minimum_cosine": self.minimum_cosine}


def agreement(
    vectors: NDArray[np.float32], reference: NDArray[np.float32], *, precision: str, who: str
) -> Agreement:
    """Compare vectors with the reference's.

    Args:
        vectors: ``[texts, hidden]``, unit vectors.
        reference: Of the same texts.
        precision: Key of `LOWEST_COSINE`.
        who: Whose vectors they are, for the message.

    Raises:
        WrongAnswer: Wrong shape, a norm off 1, or a vector that is not the reference's.
    """
    if vectors.shape != reference.shape:
        raise WrongAnswer(f"{who} gave vectors of shape {vectors.shape}, not {reference.shape}")
    norm_error = float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max())
    cosines = (vectors.astype(np.float64) * reference.astype(np.float64)).sum(axis=1)
    lowest = float(cosines.min())
    if not norm_error <= 1e-3:
        raise WrongAnswer(f"a vector of {who} has a norm that is off 1 by {norm_error}")
    if not lowest >= LOWEST_COSINE[precision]:
        raise WrongAnswer(
            f"{who} does not agree with transformers: lowest cosine {lowest:.5f} in {precision}, "
            f"{LOWEST_COSINE[precision]} wanted"
        )
    return Agreement(texts=len(vectors), mean_cosine=float(cosines.mean()), minimum_cosine=lowest)


def separation(reference: NDArray[np.float32]) -> float:
    """Return the mean cosine of vectors of different texts.

    Were it near 1, wrong vectors would agree with the reference too.
    """
    products = reference.astype(np.float64) @ reference.astype(np.float64).T
    count = len(reference)
    return float((products.sum() - np.trace(products)) / (count * (count - 1)))


def save_reference(settings: SuiteSettings, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Keep the vectors of each corpus's compared rows, by its distribution."""
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = dict(vectors)
    np.savez(_file(settings), **kept)


def load_reference(settings: SuiteSettings) -> dict[str, NDArray[np.float32]]:
    """Return what `save_reference` kept; nothing where the parity step has not run here."""
    if not _file(settings).is_file():
        return {}
    with np.load(_file(settings)) as kept:
        return {name: kept[name] for name in kept.files}


def _file(settings: SuiteSettings) -> Path:
    return settings.run_folder / "reference.npz"
