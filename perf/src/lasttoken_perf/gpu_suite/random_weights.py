"""Random weights of a shape, drawn on the device: the same in every step, none of them kept.

Each tensor has a seed of its own, so any one can be drawn alone and again. The generators of
processors and GPUs differ: weights are the same on one kind of device only.

Most matrices keep the size of what passes them (variance 1 / inputs), and embeddings have variance
1. So every layer, and what a token attends to, decides the vector: with matrices as small as those
of a fresh model, the vectors of all texts, which end in the same token, would be nearly one, and
parity would prove nothing. With queries and keys of gain 2, rounding grows from layer to layer.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import ml_dtypes
import torch  # noqa: TID251 - the suite measures torch too
from numpy.typing import NDArray

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_perf.gpu_suite.shapes import shape_config
from lasttoken_perf.gpu_suite.word_tokenizer import tokenizer_json

TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_GAINS = {"q_proj": 1.3, "k_proj": 1.3, "o_proj": 1.5}
"""Standard deviation of what leaves a matrix over that of what enters, where it is not 1."""
_NORM_SPREAD = 0.1


class RandomWeights:
    """Implements `lasttoken_export.checkpoint.Checkpoint`; `tensor` gives the same on the device.

    Args:
        shape: One of `SHAPES`.
        precision: Of the values: fp32, fp16 or bf16.
        device: torch's name of the device that draws them.
        seed: Decides the values.
    """

    def __init__(self, shape: str, *, precision: str, device: str, seed: int) -> None:
        self.location = f"random weights of the shape {shape}, seed {seed}"
        self.revision: str | None = None
        self.config: DecoderConfig = shape_config(shape)
        self._shapes = self.config.tensor_shapes()
        self._type = TORCH_TYPES[precision]
        self._device = torch.device(device)
        self._seed = seed

    def names(self) -> frozenset[str]:
        """See `Checkpoint.names`."""
        return frozenset(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint.shape`."""
        return self._shapes[name]

    def read(self, name: str) -> NDArray[Any]:
        """See `Checkpoint.read`."""
        values = self.tensor(name).cpu()
        is_bfloat16 = self._type == torch.bfloat16  # which numpy does not have
        array: NDArray[Any] = (values.view(torch.int16) if is_bfloat16 else values).numpy()
        return array.view(ml_dtypes.bfloat16) if is_bfloat16 else array

    def tokenizer_json(self) -> str:
        """See `ModelFiles.tokenizer_json`."""
        return tokenizer_json(self.config.vocab_size)

    def tensor(self, name: str) -> torch.Tensor:
        """Draw one tensor on the device: matrices around 0, weights of norms around 1."""
        shape = self._shapes[name]
        generator = torch.Generator(self._device)
        generator.manual_seed(self._seed + zlib.crc32(name.encode()))
        spread, centre = (_NORM_SPREAD, 1.0) if len(shape) == 1 else (self._spread(name), 0.0)
        values = torch.empty(shape, dtype=torch.float32, device=self._device)
        values.uniform_(centre - spread, centre + spread, generator=generator)
        return values.to(self._type)

    def _spread(self, name: str) -> float:
        """Return the half width of a matrix's uniform distribution: sqrt(3) deviations."""
        if name == "embed_tokens.weight":
            return math.sqrt(3)
        gain = _GAINS.get(name.split(".")[-2], 1.0)
        return gain * math.sqrt(3 / self._shapes[name][1])
