"""`lasttoken demo`: export, serve and embed, from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from lasttoken.commands.command import EXIT_FAILED, Command, add_local_arguments, say
from lasttoken.demo import add_demo_arguments, run_demo
from lasttoken.interrupts import exit_on_sigterm


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    add_demo_arguments(parser)
    add_local_arguments(parser)


def _demo(arguments: argparse.Namespace) -> int:
    with exit_on_sigterm():
        all_found = run_demo(
            model=arguments.model,
            precision=arguments.precision,
            cache_folder=Path(arguments.cache) if arguments.cache else None,
            python=arguments.python,
            show=print,
            say=say,
        )
    return 0 if all_found else EXIT_FAILED


DEMO = Command(
    name="demo",
    summary="export the demonstration model, serve it and embed a dozen sentences",
    add_arguments=_add_demo_arguments,
    run=_demo,
)
