"""`lasttoken demo`: export, serve and embed, from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from lasttoken.commands.command import EXIT_FAILED, Command, add_local_arguments, say
from lasttoken.commands.stop_signals import sigterm_as_ctrl_c
from lasttoken.demo import add_demo_arguments, run_demo


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    add_demo_arguments(parser)
    add_local_arguments(parser)


def _demo(arguments: argparse.Namespace) -> int:
    with sigterm_as_ctrl_c() as stop:
        try:
            all_found = run_demo(
                model=arguments.model,
                precision=arguments.precision,
                cache_folder=Path(arguments.cache) if arguments.cache else None,
                python=arguments.python,
                show=print,
                say=say,
            )
        except KeyboardInterrupt:
            return stop.exit_code
    return 0 if all_found else EXIT_FAILED


DEMO = Command(
    name="demo",
    summary="export the demonstration model, serve it and embed a dozen sentences",
    add_arguments=_add_demo_arguments,
    run=_demo,
)
