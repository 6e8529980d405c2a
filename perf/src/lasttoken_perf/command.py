"""What a subcommand of ``lasttoken-perf`` is; each is one module of `lasttoken_perf.commands`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken_perf.output_file import write_output


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand; its name and what the help says of it are `commands.SUMMARIES`'.

    Attributes:
        add_arguments: Puts its arguments on its parser; ``--output`` is there already.
        run: Does the work, prints the result to stdout and returns what ``--output`` writes as
            JSON. A `PerfError` is shown without a traceback; `errors` says with which exit code.
    """

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], dict[str, Any]]


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, the catalogue name of what is measured."""
    parser.add_argument(
        "--model", default="smollm2-135m", metavar="NAME", help="catalogue name (%(default)s)"
    )


def whole_number(least: int = 1) -> Callable[[str], int]:
    """Return what makes a whole number of an argument and refuses a smaller one."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {least} or more")
        return number

    return convert


def positive_number(text: str) -> float:
    """Make a number of an argument and refuse zero, what is below it, and infinity."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def number_from_zero(text: str) -> float:
    """Make a number of an argument and refuse what is below zero, and infinity."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return number


def cache_folder() -> Path | None:
    """Where weights and peers are kept: LASTTOKEN_CACHE, or None for the default."""
    folder = os.environ.get("LASTTOKEN_CACHE")
    return Path(folder) if folder else None


def write_result(result: Mapping[str, Any], file: Path) -> None:
    """Write a result as JSON, in a folder that is made if need be, and say so.

    Raises:
        OutputUnwritable: As of `write_output`.
    """
    write_output(file, as_json(result))
    say(f"written to {file}")


def as_json(result: Mapping[str, Any]) -> str:
    """Return the text of a result's file."""
    return json.dumps(result, indent=1) + "\n"


def say(message: str) -> None:
    """Tell the user what is being done."""
    print(message, file=sys.stderr, flush=True)
