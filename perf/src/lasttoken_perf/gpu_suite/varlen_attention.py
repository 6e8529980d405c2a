"""Causal attention of packed rows in torch: the best that the installed torch has for the device.

Every kind computes the same: queries ``[T, heads, head_dim]``, keys and values
``[T, kv_heads, head_dim]``, no cell crosses two rows. A kind counts only once it has given, on
random rows, what one plain attention a row gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch  # noqa: TID251 - the suite measures torch too
from torch import Tensor  # noqa: TID251 - as above

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_PROBE_LENGTHS = (5, 1, 17, 64, 3)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RowBounds:
    """Where the rows of a batch begin and end.

    Attributes:
        lengths: Tokens of each row.
        ends: ``[B + 1] int32`` on the device: 0 and the cumulated lengths.
        longest: Longest row.
    """

    lengths: tuple[int, ...]
    ends: Tensor
    longest: int


Attention = Callable[[Tensor, Tensor, Tensor, RowBounds], Tensor]


def row_bounds(lengths: list[int], device: torch.device) -> RowBounds:
    """Return the bounds of rows of these lengths."""
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    ends[1:] = torch.tensor(lengths, dtype=torch.int32).cumsum(0)
    return RowBounds(lengths=tuple(lengths), ends=ends.to(device), longest=max(lengths))


def attention_a_row(queries: Tensor, keys: Tensor, values: Tensor, bounds: RowBounds) -> Tensor:
    """Attend row by row with torch's scaled dot product; what the others are checked against."""
    parts = []
    start = 0
    for length in bounds.lengths:
        q, k, v = (t[start : start + length].transpose(0, 1)[None] for t in (queries, keys, values))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )
        parts.append(out[0].transpose(0, 1))
        start += length
    return torch.cat(parts)


def choose_attention(
    *, heads: int, kv_heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[str, Attention, dict[str, str]]:
    """Return the first kind that is right here.

    Returns:
        Its name, the function, and why each one before it was passed over.
    """
    passed_over: dict[str, str] = {}
    for name, make in _KINDS.items():
        try:
            attention = make()
            _check(attention, heads, kv_heads, head_dim, device, dtype)
        except Exception as error:  # noqa: BLE001 - whatever a kind raises, the next one is tried
            words = str(error).strip().splitlines() or [""]
            passed_over[name] = f"{type(error).__name__}: {words[0]}"[:300]
        else:
            return name, attention, passed_over
    raise AssertionError(f"torch's own attention is wrong here: {passed_over}")


def _check(
    attention: Attention,
    heads: int,
    kv_heads: int,
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    bounds = row_bounds(list(_PROBE_LENGTHS), device)
    generator = torch.Generator(device).manual_seed(0)
    # Laid out as the model's are: queries and keys are parts of one array.
    queries, keys, values = (
        torch.randn(
            sum(_PROBE_LENGTHS), heads + 2 * kv_heads, head_dim, generator=generator, device=device
        )
        .to(dtype)
        .split([heads, kv_heads, kv_heads], dim=1)
    )
    found = attention(queries, keys, values, bounds)
    wanted = attention_a_row(queries.float(), keys.float(), values.float(), bounds)
    error = float((found.float() - wanted).abs().max())
    if not error <= _TOLERANCE[dtype]:
        raise ValueError(f"differs from plain attention by {error}")


def _torch_varlen() -> Attention:
    """Use ``torch.nn.attention.varlen`` (torch 2.10); its arguments changed between versions."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: TID251 - as above

    known = inspect.signature(varlen_attn).parameters
    causal = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    shares_heads = "enable_gqa" in known

    def attend(queries: Tensor, keys: Tensor, values: Tensor, bounds: RowBounds) -> Tensor:
        options = dict(causal)
        if shares_heads:
            options["enable_gqa"] = True
        else:
            keys, values = (_repeat_heads(t, queries.shape[1]) for t in (keys, values))
        out: Tensor = varlen_attn(
            queries, keys, values, bounds.ends, bounds.ends, bounds.longest, bounds.longest,
            **options,
        )  # fmt: skip
        return out

    return attend


def _flash_attn_package() -> Attention:
    """Use the package flash-attn."""
    from flash_attn import flash_attn_varlen_func

    def attend(queries: Tensor, keys: Tensor, values: Tensor, bounds: RowBounds) -> Tensor:
        out: Tensor = flash_attn_varlen_func(
            queries, keys, values, bounds.ends, bounds.ends, bounds.longest, bounds.longest,
            causal=True,
        )  # fmt: skip
        return out

    return attend


def _nested_tensors() -> Attention:
    """Use scaled dot product attention of jagged nested tensors, on a GPU's fused kernels."""

    def attend(queries: Tensor, keys: Tensor, values: Tensor, bounds: RowBounds) -> Tensor:
        if queries.device.type != "cuda":
            raise ValueError("fused kernels of nested tensors need CUDA")
        keys, values = (_repeat_heads(t, queries.shape[1]) for t in (keys, values))
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                t, bounds.ends.to(torch.int64), max_seqlen=bounds.longest
            ).transpose(1, 2)
            for t in (queries, keys, values)
        )
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        packed: Tensor = out.transpose(1, 2).values()
        return packed

    return attend


_KINDS: dict[str, Callable[[], Attention]] = {
    "torch.nn.attention.varlen": _torch_varlen,
    "flash_attn_varlen_func": _flash_attn_package,
    "nested tensors": _nested_tensors,
    "one attention a row": lambda: attention_a_row,
}


def _repeat_heads(values: Tensor, heads: int) -> Tensor:
    return values.repeat_interleave(heads // values.shape[1], dim=1)
