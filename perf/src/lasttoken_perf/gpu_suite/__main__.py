"""``python -m lasttoken_perf.gpu_suite``: the command ``lasttoken-perf gpu`` alone.

For a bare machine: what only the other commands import need not be there, and what only one step
imports costs that step alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lasttoken_perf.commands import SUMMARIES
from lasttoken_perf.commands.gpu import COMMAND
from lasttoken_perf.errors import PerfError


def main() -> int:
    """Run it; returns its exit code (0 fine, 1 failed, 2 bad usage)."""
    parser = argparse.ArgumentParser(
        prog="python -m lasttoken_perf.gpu_suite", description=SUMMARIES["gpu"]
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="result file (%(default)s)")
    COMMAND.add_arguments(parser)
    try:
        COMMAND.run(parser.parse_args())  # which writes the file, step by step
    except PerfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
