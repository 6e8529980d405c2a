"""One linear layer of a graph, or several side by side, and how its weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.quantisation.input_changes import InputChanges
from lasttoken_export.quantisation.rotation import rotate_columns, rotate_rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """Where the smoothing of a linear layer's inputs goes: into what makes them.

    Attributes:
        linear: Name of the layer whose inputs are divided by the smoothing factors.
        channels: ``[in]`` of each of its inputs, the channel upstream that makes it.
        size: Channels upstream.
        head_dim: Of heads whose values attention mixes to make the inputs: a rotation within them
            goes upstream too. None where the channels must stay as they are.
    """

    linear: str
    channels: NDArray[np.int64]
    size: int
    head_dim: int | None = None

    @classmethod
    def one_to_one(cls, linear: str, size: int, *, head_dim: int | None = None) -> Fold:
        """Each input is a channel of its own, as behind a norm."""
        return cls(linear=linear, channels=np.arange(size), size=size, head_dim=head_dim)

    def divisors(self, changes: InputChanges) -> NDArray[np.float32]:
        """Return what each channel upstream is divided by: ``[size]``."""
        divisors = np.ones(self.size, np.float32)
        divisors[self.channels] = changes.factors(self.linear)
        return divisors

    def rotation(self, changes: InputChanges) -> int | None:
        """Return the block in which the channels upstream are rotated, or None."""
        return None if self.head_dim is None else changes.rotation(self.linear)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Neighbouring outputs of a linear layer.

    Attributes:
        name: Name in the graph.
        start: The first.
        size: How many.
    """

    name: str
    start: int
    size: int

    @property
    def as_slice(self) -> slice:
        """Where they are among all."""
        return slice(self.start, self.start + self.size)

    @property
    def short_name(self) -> str:
        """Name within its layer of the model."""
        return self.name.rpartition(".")[2]


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
        outputs: Name and output elements of each value that is wanted of it; none for one of all.
        adds_to_states: Whether its outputs are added to hidden states that go on as they are,
            behind no norm.
    """

    name: str
    parts: tuple[tuple[str, int], ...]
    in_features: int
    bias: bool
    fold: Fold | None
    smooths: tuple[tuple[Fold, int], ...]
    outputs: tuple[tuple[str, int], ...] = ()
    adds_to_states: bool = False

    @property
    def out_features(self) -> int:
        """Output elements."""
        return sum(size for _, size in self.parts)

    @property
    def columns(self) -> list[Columns]:
        """The columns of each of `outputs`."""
        if not self.outputs:
            return [self.all_columns]
        starts = np.cumsum([0, *(size for _, size in self.outputs)])
        assert starts[-1] == self.out_features, self.name
        prefix = self.name.removesuffix(self.short_name)
        return [
            Columns(name=f"{prefix}{name}", start=int(start), size=size)
            for (name, size), start in zip(self.outputs, starts, strict=False)
        ]

    @property
    def all_columns(self) -> Columns:
        """All outputs together."""
        return Columns(name=self.name, start=0, size=self.out_features)

    @property
    def rotates_upstream(self) -> bool:
        """Whether a rotation of its inputs goes into what makes them."""
        return self.fold is not None and self.fold.head_dim is not None

    @property
    def input_channels(self) -> NDArray[np.int64] | None:
        """Of `Fold`: ``[in]`` the channel upstream that makes each input; None for none."""
        return None if self.fold is None else self.fold.channels

    @property
    def makes_heads(self) -> bool:
        """Whether its outputs are queries, keys and values."""
        return any(fold.head_dim is not None for fold, _ in self.smooths)

    @property
    def narrows(self) -> bool:
        """Whether it gives less than it takes, as the last product of an MLP does."""
        return self.out_features < self.in_features

    @property
    def short_name(self) -> str:
        """Name within its layer of the model."""
        return self.name.rpartition(".")[2]

    def read_weight(
        self,
        checkpoint: Checkpoint,
        dtype: np.dtype[Any],
        changes: InputChanges | None,
        columns: slice = slice(None),
    ) -> NDArray[Any]:
        """Return the weights ``[in, out]``, smoothed and rotated where there are changes.

        Args:
            checkpoint: Has them.
            dtype: Of the answer.
            changes: What calibration asks for; None for the weights as they are.
            columns: The outputs wanted; no more is read.
        """
        # Factors are applied in float32, whatever the weights end in.
        kept = dtype if changes is None else np.dtype(np.float32)
        fused = np.zeros((self.in_features, self.out_features), kept)
        first, behind, _ = columns.indices(self.out_features)
        column = 0
        for part, size in self.parts:
            if column < behind and column + size > first:
                fused[:, column : column + size] = checkpoint.read(f"{part}.weight").T
            column += size
        if changes is not None:
            fused *= changes.factors(self.name)[:, None]
            fused = self.for_outputs(fused, changes)
            block = changes.rotation(self.name)
            if block is not None:
                fused = rotate_rows(fused, block)
        return fused[:, columns].astype(dtype, copy=False)

    def read_bias(
        self, checkpoint: Checkpoint, dtype: np.dtype[Any], changes: InputChanges | None
    ) -> NDArray[Any]:
        """Return the biases ``[out]``."""
        fused = np.concatenate(
            [checkpoint.read(f"{part}.bias").astype(np.float32) for part, _ in self.parts]
        )
        if changes is not None:
            fused = self.for_outputs(fused[None], changes)[0]
        return fused.astype(dtype)

    def for_outputs(
        self, weight: NDArray[np.float32], changes: InputChanges
    ) -> NDArray[np.float32]:
        """Return weights ``[n, out]`` with what the layers behind ask for in their columns."""
        weight = weight.copy()
        for fold, start in self.smooths:
            columns = slice(start, start + fold.size)
            weight[:, columns] /= fold.divisors(changes)
            block = fold.rotation(changes)
            if block is not None:
                weight[:, columns] = rotate_columns(weight[:, columns], block)
        return weight
