"""One linear layer of a graph, or several side by side, and how its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.quantisation.calibration import Calibration


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """Where the smoothing of a linear layer's inputs goes: into what makes them.

    Attributes:
        linear: Name of the layer whose inputs are divided by the smoothing factors.
        channels: ``[in]`` of each of its inputs, the channel upstream that makes it.
        size: Channels upstream.
    """

    linear: str
    channels: NDArray[np.int64]
    size: int

    @classmethod
    def one_to_one(cls, linear: str, size: int) -> Fold:
        """Each input is a channel of its own, as behind a norm."""
        return cls(linear=linear, channels=np.arange(size), size=size)

    def divisors(self, calibration: Calibration) -> NDArray[np.float32]:
        """Return what each channel upstream is divided by: ``[size]``."""
        divisors = np.ones(self.size, np.float32)
        divisors[self.channels] = calibration.factors(self.linear)
        return divisors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearLayer:
    """What the graph knows of a linear layer.

    Attributes:
        name: Name in the graph.
        parts: Name in the checkpoint and output elements of each of those side by side.
        in_features: Input elements.
        bias: Whether they have biases.
        fold: Where the smoothing of its inputs goes; None where it stays an operator.
        smooths: Layers whose smoothing goes into this one, each with the first of the output
            columns that it divides.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    in_features: int
    bias: bool
    fold: Fold | None
    smooths: tuple[tuple[Fold, int], ...]

    @property
    def out_features(self) -> int:
        """Output elements."""
        return sum(size for _, size in self.parts)

    @property
    def short_name(self) -> str:
        """Name within its layer of the model."""
        return self.name.rpartition(".")[2]

    def read_weight(
        self, checkpoint: Checkpoint, dtype: np.dtype[Any], calibration: Calibration | None
    ) -> NDArray[Any]:
        """Return the weights ``[in, out]``, smoothed where there is a calibration."""
        # Factors are applied in float32, whatever the weights end in.
        kept = dtype if calibration is None else np.dtype(np.float32)
        fused = np.empty((self.in_features, self.out_features), kept)
        column = 0
        for part, size in self.parts:
            fused[:, column : column + size] = checkpoint.read(f"{part}.weight").T
            column += size
        if calibration is not None:
            fused *= calibration.factors(self.name)[:, None]
            for fold, start in self.smooths:
                fused[:, start : start + fold.size] /= fold.divisors(calibration)
        return fused.astype(dtype, copy=False)

    def read_bias(
        self, checkpoint: Checkpoint, dtype: np.dtype[Any], calibration: Calibration | None
    ) -> NDArray[Any]:
        """Return the biases ``[out]``."""
        fused = np.concatenate(
            [checkpoint.read(f"{part}.bias").astype(np.float32) for part, _ in self.parts]
        )
        if calibration is not None:
            for fold, start in self.smooths:
                fused[start : start + fold.size] /= fold.divisors(calibration)
        return fused.astype(dtype)
