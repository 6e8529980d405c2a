"""The argument about the gate, figures for a reader, and the progress of the comparison."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from lasttoken_export.quality.gate import FIGURES


def add_accept_quality(parser: argparse.ArgumentParser) -> None:
    """Add ``--accept-quality``."""
    parser.add_argument(
        "--accept-quality", action="append", default=[], metavar="NAME[=VALUE]",
        help="accept a figure that misses its gate, at any value or up to VALUE, and record that "
        f"on the card; NAME is one of {', '.join(FIGURES)}; repeatable",
    )  # fmt: skip


def print_quality(name: str, quality: dict[str, Any]) -> None:
    """Print the card's ``quality`` for a reader."""
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


@contextmanager
def text_progress() -> Iterator[Callable[[int, int], None]]:
    """Show texts embedded and time left, on a terminal only."""
    with tqdm(unit="text", desc="comparing with fp32", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
