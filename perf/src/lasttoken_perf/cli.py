"""The command ``lasttoken-perf``: results to stdout, what is being done to stderr.

Every module of `lasttoken_perf.commands` is a subcommand, and is imported for that one alone.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lasttoken.errors import LasttokenError
from lasttoken_export.errors import ExportError, InvalidOption
from lasttoken_perf import commands
from lasttoken_perf.command import Command, write_result
from lasttoken_perf.errors import InvalidPlan, InvalidUsage, PerfError, UnknownWorkload
from lasttoken_perf.interruption import Interrupted, signals_unwind
from lasttoken_perf.machine import git_revision
from lasttoken_perf.output_file import check_output

_BAD_USAGE = (InvalidUsage, InvalidOption, InvalidPlan, UnknownWorkload)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0 fine, 1 failed, 2 bad usage, 130 and 143 interrupted by SIGINT and SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with signals_unwind():
            _run(_parser(words[0] if words else None).parse_args(words))
            sys.stdout.flush()
    except Interrupted as interruption:
        print(f"interrupted by {interruption}{interruption.kept}", file=sys.stderr)
        return interruption.exit_code
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - Python flushes it at exit
        return 1
    except (PerfError, ExportError, LasttokenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, _BAD_USAGE) else 1
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.output is not None:
        check_output("--output", options.output)
    git_revision()  # kept from here on: results are written much later
    result = options.run(options)
    if options.output is not None:
        write_result(result, options.output)


def load_command(name: str) -> Command:
    """Import the subcommand of this name: what measures exports imports what builds graphs."""
    module = importlib.import_module(f"{commands.__name__}.{name.replace('-', '_')}")
    command: Command = module.COMMAND
    return command


def _parser(word: str | None) -> argparse.ArgumentParser:
    """Return the parser in which the subcommand `word`, and no other, has its arguments."""
    parser = argparse.ArgumentParser(
        prog="lasttoken-perf", description=(__doc__ or "").partition("\n")[0]
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in commands.SUMMARIES.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == word:
            subparser.add_argument(
                "--output", type=Path, metavar="FILE", help="write the result to this file as JSON"
            )
            command = load_command(name)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
