"""The practical ceiling: the packed decoder written in torch, nothing else in the way.

The same arithmetic as `lasttoken_export.graph.decoder`: packed tokens, fused QKV and gate/up
matrices, variable-length attention, the last token of each row, normalised in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID251 - the suite measures torch too
from numpy.typing import NDArray
from torch import Tensor  # noqa: TID251 - as above

from lasttoken_perf.gpu_suite.cuda_graphs import MAX_TOKENS, GraphedForward
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.varlen_attention import RowBounds, choose_attention, row_bounds


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Layer:
    """Weights of one layer, each ``[out, in]`` or ``[hidden]``."""

    input_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class PackedTorchModel:
    """The model on the device.

    Args:
        weights: The weights.
        device: torch's name of the device.
        compiled: Whether norms, rotation and activation are compiled into one kernel each.
        graphs: Whether short batches run as CUDA graphs.

    Attributes:
        attention_name: Kind of the attention.
        passed_over: Why better kinds were not taken.
    """

    def __init__(
        self,
        weights: RandomWeights,
        *,
        device: str,
        compiled: bool = False,
        graphs: bool = False,
    ) -> None:
        self._config = config = weights.config
        self._device = torch.device(device)
        self._embeddings = weights.tensor("embed_tokens.weight")
        self._layers = [_load_layer(weights, index) for index in range(config.num_layers)]
        self._final_norm = weights.tensor("norm.weight")
        dtype = self._final_norm.dtype
        self.attention_name, self._attention, self.passed_over = choose_attention(
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            device=self._device,
            dtype=dtype,
        )
        wrap: Callable[[Any], Any] = (
            (lambda function: torch.compile(function, dynamic=True)) if compiled else _as_it_is
        )
        self._add_and_norm, self._rotate, self._swiglu = map(wrap, (_add_and_norm, rotate, _swiglu))
        self._places: dict[tuple[int, ...], tuple[Tensor, RowBounds]] = {}
        self._graphed = GraphedForward(self._forward) if graphs else None

    def encode(
        self, input_ids: NDArray[np.int32], row_lengths: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Embed packed rows, as `engine.Engine.encode` does.

        Args:
            input_ids: ``[T]``.
            row_lengths: ``[B]``.

        Returns:
            ``[B, hidden]`` L2-normalised.
        """
        lengths = tuple(row_lengths.tolist())
        with torch.inference_mode():
            ids = torch.from_numpy(input_ids).to(self._device)
            short = len(input_ids) <= MAX_TOKENS
            forward = self._graphed if self._graphed is not None and short else self._forward
            vectors: NDArray[np.float32] = forward(ids, lengths).cpu().numpy()
        return vectors

    def _placing(self, lengths: tuple[int, ...]) -> tuple[Tensor, RowBounds]:
        """Return positions ``[T]`` and bounds; kept, since a captured graph reads them again."""
        if lengths not in self._places:
            positions = np.concatenate([np.arange(length) for length in lengths])
            self._places[lengths] = (
                torch.from_numpy(positions).to(self._device),
                row_bounds(list(lengths), self._device),
            )
        return self._places[lengths]

    def _forward(self, ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
        positions, bounds = self._placing(lengths)
        config = self._config
        cos, sin = rotary_tables(positions, config.head_dim, config.rope_theta)
        hidden = self._embeddings[ids]  # [T, hidden]
        change = torch.zeros_like(hidden)
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        sizes = [config.queries_size + config.keys_size, config.keys_size]
        linear, eps = torch.nn.functional.linear, config.rms_norm_eps
        for layer in self._layers:
            hidden, normed = self._add_and_norm(hidden, change, layer.input_norm, eps)
            queries_keys, values = linear(normed, layer.qkv).split(sizes, dim=1)
            rotated = self._rotate(queries_keys.unflatten(1, (-1, head_dim)), cos, sin)
            queries, keys = rotated.split([heads, kv_heads], dim=1)
            attended = self._attention(
                queries, keys, values.reshape(-1, kv_heads, head_dim).contiguous(), bounds
            )
            change = linear(attended.flatten(1), layer.out)
            hidden, normed = self._add_and_norm(hidden, change, layer.mlp_norm, eps)
            change = linear(self._swiglu(linear(normed, layer.gate_up)), layer.down)
        last = bounds.ends[1:].long() - 1
        _, normed = _add_and_norm(hidden[last], change[last], self._final_norm, eps)
        return torch.nn.functional.normalize(normed.float(), dim=1)


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, ``[T, 1, head_dim / 2]`` float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = 1.0 / theta ** (exponents / head_dim)
    angles = positions.float()[:, None, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(queries_keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``[T, heads, head_dim]``: the halves of a head are real and imaginary parts."""
    first, second = queries_keys.float().chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(queries_keys.dtype)


def _add_and_norm(
    hidden: Tensor, change: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    hidden = hidden + change
    wide = hidden.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return hidden, normed.to(hidden.dtype) * weight


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _load_layer(weights: RandomWeights, index: int) -> _Layer:
    def fused(*names: str) -> Tensor:
        return torch.cat([weights.tensor(f"layers.{index}.{name}.weight") for name in names])

    return _Layer(
        input_norm=fused("input_layernorm"),
        qkv=fused("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=fused("self_attn.o_proj"),
        mlp_norm=fused("post_attention_layernorm"),
        gate_up=fused("mlp.gate_proj", "mlp.up_proj"),
        down=fused("mlp.down_proj"),
    )


def _as_it_is(function: Any) -> Any:
    return function
