"""Shorter vectors: the first elements, normalised again, for models that were trained for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.gateway.refusals import invalid


def check_dimensions(
    wanted: int, *, model: str, full: int, matryoshka: Mapping[str, Any] | None
) -> None:
    """Refuse a size that the model was not trained for.

    Args:
        wanted: The size asked for.
        model: Name of the model, for the message.
        full: Elements of the model's own vectors.
        matryoshka: The card's: `{"dimensions": [...]}`, `{"minimum": n}`, or None.

    Raises:
        Refusal: 400; the message says which sizes there are.
    """
    if wanted == full:
        return
    if matryoshka is None:
        raise invalid(
            f"dimensions is {wanted}; {model} was trained for its {full} only: leave it out",
            param="dimensions",
        )
    allowed = matryoshka.get("dimensions")
    if allowed is not None and wanted not in allowed:
        raise invalid(
            f"dimensions is {wanted}; {model} was trained for {sorted(allowed)}",
            param="dimensions",
        )
    minimum = int(matryoshka.get("minimum", 1))
    if not minimum <= wanted <= full:
        raise invalid(
            f"dimensions is {wanted}; {model} was trained for {minimum} to {full}",
            param="dimensions",
        )


def shortened(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    """Keep the first elements and normalise them.

    Args:
        vectors: `[n, D]` float32.
        dimensions: At most D.

    Returns:
        `[n, dimensions]` float32, L2-normalised; a row of zeros stays one.

    Source: https://arxiv.org/abs/2205.13147
    """
    if dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions]
    norms = np.sqrt(np.einsum("ij,ij->i", kept, kept, dtype=np.float64))
    norms[norms == 0] = 1.0
    short: npt.NDArray[np.float32] = (kept / norms[:, None]).astype(np.float32)
    return short
