"""The arguments of the calibrated precisions, and their progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from lasttoken_export.quantisation.calibration_options import CalibrationOptions


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--calibration-texts", type=Path, metavar="FILE",
                        help="texts that the scales of int8, fp8 and int4 come from: one a line, "
                        "or JSON Lines (.jsonl); a set of the exporter's own")  # fmt: skip
    parser.add_argument("--calibration-seed", type=int, default=0, metavar="N",
                        help="decides which tokens are sampled (%(default)s)")  # fmt: skip
    parser.add_argument("--calibration-folder", type=Path, metavar="DIR",
                        help="where calibrations are kept; beside the checkpoint, or the cache "
                        "folder where that is read-only")  # fmt: skip


def calibration_options(
    options: argparse.Namespace, cache_folder: Path | None
) -> CalibrationOptions:
    """Return what the arguments say."""
    return CalibrationOptions(
        texts=options.calibration_texts,
        seed=options.calibration_seed,
        folder=options.calibration_folder,
        cache_folder=cache_folder,
    )


@contextmanager
def layer_progress() -> Iterator[Callable[[int, int], None]]:
    """Show layers calibrated and time left, on a terminal only."""
    with tqdm(unit="layer", desc="calibrating", disable=None, delay=0.1) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
