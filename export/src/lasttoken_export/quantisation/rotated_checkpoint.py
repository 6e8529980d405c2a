"""The same decoder with its hidden states rotated, which spreads their outliers over all channels.

Between two blocks of a pre-norm decoder nothing but an RMS norm touches the hidden states, and it
commutes with a rotation once its weights are in the layers behind it. So the embeddings and all
that adds to the hidden states are rotated, all that reads them is rotated back, and the pooled
state is rotated back once, at the end. Nothing more is computed in the layers.

Source: QuaRot, https://arxiv.org/abs/2404.00456, section 4, stage 1a; SliceGPT,
https://arxiv.org/abs/2401.15024, section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.quantisation.rotation import hadamard
from lasttoken_export.quantisation.weights import Floats

UNROTATION = "norm.unrotation"
"""Tensor ``[hidden, hidden]`` that the pooled state is multiplied by, weights of the norm
included."""
_LARGEST_FACTOR = 64
_NORM_BEFORE = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "input_layernorm"),
    **dict.fromkeys(("gate_proj", "up_proj"), "post_attention_layernorm"),
}


def with_rotated_states(checkpoint: Checkpoint) -> Checkpoint:
    """Return a decoder with rotated hidden states; an encoder, whose norms do not allow it, as is.

    The configuration, the tokenizer and the names stay; `UNROTATION` is new.
    """
    if not isinstance(checkpoint.config, DecoderConfig):
        return checkpoint
    return RotatedCheckpoint(checkpoint)


class RotatedCheckpoint:
    """See `with_rotated_states`; implements `Checkpoint`.

    Args:
        checkpoint: A decoder.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.location, self.revision = checkpoint.location, checkpoint.revision
        self.config = checkpoint.config

    def tokenizer_json(self) -> str:
        """See `Checkpoint`."""
        return self._checkpoint.tokenizer_json()

    def names(self) -> frozenset[str]:
        """See `Checkpoint`."""
        return self._checkpoint.names() | {UNROTATION}

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint`."""
        size = self.config.hidden_size
        return (size, size) if name == UNROTATION else self._checkpoint.shape(name)

    def read(self, name: str) -> NDArray[Any]:
        """See `Checkpoint`; what is changed is float32."""
        if name == UNROTATION:
            return rotate_states(np.diag(self._floats("norm.weight"))).T
        if name == "embed_tokens.weight":
            return rotate_states(self._floats(name))
        prefix, _, rest = name.removesuffix(".weight").rpartition(".")
        if name == "norm.weight" or rest in _NORM_BEFORE.values():
            return np.ones(self.shape(name), np.float32)
        if name.endswith(".weight") and rest in _NORM_BEFORE:
            norm = f"{prefix.rpartition('.')[0]}.{_NORM_BEFORE[rest]}.weight"
            return rotate_states(self._floats(name) * self._floats(norm))
        if rest in ("o_proj", "down_proj"):
            return rotate_states(self._floats(name).T).T
        return self._checkpoint.read(name)

    def _floats(self, name: str) -> Floats:
        return self._checkpoint.read(name).astype(np.float32)


def rotate_states(states: Floats) -> Floats:
    """Multiply ``[n, size]`` by an orthogonal matrix whose elements are all of about one size.

    It is the Kronecker product of Hadamard matrices and, where the size is no power of two, a
    discrete cosine transform, behind a change of signs: without it, what all channels have in
    common would end in one.
    """
    size = states.shape[1]
    factors = _factors(size)
    rotated = states * _signs(size)
    rotated = rotated.reshape(-1, *map(len, factors))
    for axis, factor in enumerate(factors, start=1):
        rotated = np.moveaxis(np.moveaxis(rotated, axis, -1) @ factor, -1, axis)
    result: Floats = np.ascontiguousarray(rotated.reshape(states.shape))
    return result


def _factors(size: int) -> list[Floats]:
    power = size & -size  # the largest power of two that divides it
    factors = [] if power == size else [_cosines(size // power)]
    while power > 1:
        factors.append(hadamard(min(power, _LARGEST_FACTOR)))
        power //= len(factors[-1])
    return factors


def _cosines(size: int) -> Floats:
    """Return the orthonormal DCT-II of ``size`` points: https://doi.org/10.1109/T-C.1974.223784."""
    numbers = np.arange(size)
    matrix = np.sqrt(2 / size) * np.cos(np.pi / size * (numbers[:, None] + 0.5) * numbers)
    matrix[:, 0] /= np.sqrt(2)
    result: Floats = matrix.astype(np.float32)
    return result


def _signs(size: int) -> Floats:
    """Return the Rudin-Shapiro sequence, +1 and -1: https://oeis.org/A020985."""
    signs = np.ones(1, np.float32)
    while len(signs) < size:
        turned = np.where(np.arange(len(signs)) % 2, -signs, signs)
        signs = np.stack([signs, turned], axis=1).ravel()
    return signs[:size].astype(np.float32)
