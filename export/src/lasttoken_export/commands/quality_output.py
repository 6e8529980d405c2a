"""The card's ``quality``, printed for a reader."""

from __future__ import annotations

import sys
from typing import Any


def print_quality(name: str, quality: dict[str, Any]) -> None:
    """Print the figures: to stdout, or a warning to stderr where nothing was measured.

    Args:
        name: Triton name of the model.
        quality: The card's, by the names of docs/quality.md.
    """
    if quality["status"] != "measured":
        stream = sys.stdout if quality["status"] == "reference" else sys.stderr
        loud = "" if quality["status"] == "reference" else "warning: "
        print(f"{loud}{name}: quality {quality['status']}: {quality['reason']}", file=stream)
        return
    texts = quality["set"]
    print(f"{name} against fp32 on {texts['pairs']} pairs of {texts['name']} "
          f"({texts['tokens']} tokens):")  # fmt: skip
    print(f"  cosine: mean {quality['mean_cosine']:.5f}, 1st percentile "
          f"{quality['p1_cosine']:.5f}, minimum {quality['minimum_cosine']:.5f}")  # fmt: skip
    print(f"  top-10 overlap: {quality['top10_overlap']:.3f}")
    print(f"  nDCG@10: {quality['ndcg_at_10']:.4f}, fp32 {quality['ndcg_at_10_reference']:.4f}, "
          f"change {quality['ndcg_change']:+.2%} (standard error "
          f"{quality['ndcg_change_error']:.2%})")  # fmt: skip
    print(f"  NaN or infinity: {quality['not_finite']} vectors")
    print(f"  bitwise the same in every batch: {quality['bitwise_batch_invariant']} "
          f"({quality['rows']} rows, {quality['packings']} packings)")  # fmt: skip
    if "plan" in quality:
        print(f"  of the plan: {quality['plan']}")
    if quality["gate"]["accepted"]:
        print(f"  accepted: {quality['gate']['accepted']}")
