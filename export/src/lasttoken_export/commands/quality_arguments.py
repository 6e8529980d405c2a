"""The argument about the gate, and the progress of the comparison with fp32."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from lasttoken_export.quality.gate import FIGURES


def add_accept_quality(parser: argparse.ArgumentParser) -> None:
    """Add ``--accept-quality``."""
    parser.add_argument(
        "--accept-quality", action="append", default=[], metavar="NAME[=VALUE]",
        help="accept a figure that misses its gate, at any value or up to VALUE, and record that "
        f"on the card; NAME is one of {', '.join(FIGURES)}; repeatable",
    )  # fmt: skip


@contextmanager
def text_progress() -> Iterator[Callable[[int, int], None]]:
    """Show texts embedded and time left, on a terminal only."""
    with tqdm(unit="text", desc="comparing with fp32", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
