"""What the subcommands share: their type, their words to the user, their common arguments.

Exit codes of every command: 0 done, 1 failed, 2 wrong usage, 130 interrupted with Ctrl-C; 143 ended
with SIGTERM, of those that clear away first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lasttoken.commands.connection import add_connection_arguments

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand.

    Attributes:
        name: What the user types.
        summary: One line for the help.
        add_arguments: Puts its arguments on its parser.
        run: Does the work and returns the exit code.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def say(words: str) -> None:
    """Tell the user something that is not a result."""
    print(f"lasttoken: {words}", file=sys.stderr, flush=True)


def print_all(lines: Iterable[str]) -> None:
    """Print results, one a line."""
    for line in lines:
        print(line)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that call a running server."""
    add_connection_arguments(parser)
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="default %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="results as JSON, one object a line")


def add_local_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that start a server on this machine."""
    parser.add_argument(
        "--cache",
        type=Path,
        default=os.environ.get("LASTTOKEN_CACHE"),
        metavar="FOLDER",
        help="where Triton and its environment are kept (LASTTOKEN_CACHE; ~/.cache/lasttoken)",
    )
    parser.add_argument("--python", help="Python 3.11 or 3.12 that runs the server's models")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append the server's output here")
    parser.add_argument(
        "--ready-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="time for loading and the first inference (default %(default)s)",
    )
