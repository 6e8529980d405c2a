"""What a published page says of SFR-Embedding-Mistral's memory and speed, against the account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from lasttoken_perf.plan.devices import load_devices
from lasttoken_perf.plan.memory import memory_account
from lasttoken_perf.plan.model_account import ModelAccount, model_account
from lasttoken_perf.plan.request import PUBLISHED_EFFICIENCY
from lasttoken_perf.plan.roofline import batch_time

CLAIMED_MODEL = "sfr-embedding-mistral"
"""What the claims are about."""
_BATCH_TOKENS = 512
"""A small batch, as of somebody who embeds on one card."""
_RUNTIME_BYTES = 0.8e9
_AGREES_WITHIN = 0.15
_SINGLE_TEXT_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCheck:
    """One published claim.

    Attributes:
        claim: In short.
        account: What the account says, with its unit.
        agrees: Whether both say the same.
        why: Where they differ, and why.
    """

    claim: str
    account: str
    agrees: bool
    why: str


def check_claims() -> tuple[ClaimCheck, ...]:
    """Hold every claim of ``data/published_claims.json`` against the account."""
    file = resources.files("lasttoken_perf.plan") / "data" / "published_claims.json"
    claims = json.loads(file.read_text(encoding="utf-8"))
    model = model_account(CLAIMED_MODEL)
    return (
        *(_check_memory(claim, model) for claim in claims["memory"]),
        *(_check_speed(claim, model) for claim in claims["speed"]),
    )


def _check_memory(claim: Mapping[str, Any], model: ModelAccount) -> ClaimCheck:
    account = memory_account(
        model,
        claim["precision"] or "fp16",
        batch_tokens=_BATCH_TOKENS,
        longest_row=_BATCH_TOKENS,
        runtime_bytes=_RUNTIME_BYTES,
    )
    weights = account.weights if claim["file_gb"] is None else claim["file_gb"] * 1e9
    total_gb = (account.total - account.weights + weights) / 1e9
    agrees = abs(total_gb - claim["gb"]) <= _AGREES_WITHIN * claim["gb"]
    fits = total_gb <= claim["card_gb"]
    why = (
        f"weights {weights / 1e9:.2f} GB"
        + (" (size of the GGUF file)" if claim["file_gb"] else "")
        + f"; with a batch of {_BATCH_TOKENS} tokens and the runtime {total_gb:.1f} GB"
        + ("" if fits else f", which a {claim['card_gb']} GB card does not hold")
    )
    if claim["precision"] == "fp16":
        why += "; the page counts the weights alone, and a 16 GB card holds it with small batches"
    return ClaimCheck(
        claim=claim["claim"], account=f"{total_gb:.1f} GB", agrees=agrees and fits, why=why
    )


def _check_speed(claim: Mapping[str, Any], model: ModelAccount) -> ClaimCheck:
    [device] = [device for device in load_devices() if device.name == claim["gpu"]]
    one = batch_time(
        model, claim["precision"], device,
        tokens=_SINGLE_TEXT_TOKENS, row_length=_SINGLE_TEXT_TOKENS,
        efficiency=PUBLISHED_EFFICIENCY,
    )  # fmt: skip
    rate = _SINGLE_TEXT_TOKENS / one.seconds
    passes = 1 / one.memory_s
    why = (
        f"one pass reads the weights in {one.memory_s * 1e3:.1f} ms and embeds all tokens of a "
        f"text at once: {_SINGLE_TEXT_TOKENS} tokens take {one.seconds * 1e3:.1f} ms "
        f"({one.bound}-bound). The page's figure would be that of texts of "
        f"{claim['low'] / passes:.1f} to {claim['high'] / passes:.1f} tokens, or of generating "
        "text, one token a pass"
    )
    return ClaimCheck(
        claim=claim["claim"],
        account=f"{rate:.0f} tokens/s",
        agrees=claim["low"] <= rate <= claim["high"],
        why=why,
    )
