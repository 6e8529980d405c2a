"""The command `lasttoken`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted with Ctrl-C, 143 with SIGTERM. The subcommands are in `lasttoken.commands`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from lasttoken.commands import COMMANDS
from lasttoken.commands.command import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, say
from lasttoken.errors import InvalidInput, LasttokenError, ModelNotFound


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; None takes the process's own.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="lasttoken", description="Text embeddings from NVIDIA Triton.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=metadata.version("lasttoken"))
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except (InvalidInput, ModelNotFound) as error:  # what was asked for: again is no use
        say(str(error))
        return EXIT_USAGE
    except LasttokenError as error:
        say(str(error))
        return EXIT_FAILED
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - Python flushes it at exit
        return EXIT_FAILED
    except OSError as error:  # no room, no permission
        say(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
