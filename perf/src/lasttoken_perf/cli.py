"""The command ``lasttoken-perf``: results to stdout, what is being done to stderr.

Every module of `lasttoken_perf.commands` is a subcommand: it has one `COMMAND`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lasttoken.errors import LasttokenError
from lasttoken_export.errors import ExportError
from lasttoken_perf import commands
from lasttoken_perf.command import Command, write_result
from lasttoken_perf.errors import PerfError
from lasttoken_perf.machine import git_revision


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (0 fine, 1 failed, 2 bad usage)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser(words[0] if words else None).parse_args(words)
    git_revision()  # kept from here on: results are written much later
    try:
        result = options.run(options)
    except (PerfError, ExportError, LasttokenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.output is not None:
        write_result(result, options.output)
    return 0


def commands_for(word: str | None) -> list[Command]:
    """Return the subcommand of a name, or all in order of their names where there is none of it.

    All of them take seconds to import: what measures exports imports what builds graphs.
    """
    modules = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    named = [name for name in modules if name.replace("_", "-") == word]
    return [
        importlib.import_module(f"{commands.__name__}.{name}").COMMAND for name in named or modules
    ]


def _parser(word: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lasttoken-perf", description=(__doc__ or "").partition("\n")[0]
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in commands_for(word):
        subparser = subparsers.add_parser(
            command.name, help=command.summary, description=command.summary
        )
        subparser.add_argument(
            "--output", type=Path, metavar="FILE", help="write the result to this file as JSON"
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
