"""What `ray.init` does to the handler of SIGTERM is undone; no Ray runs."""

from __future__ import annotations

import signal
import sys

import pytest

from lasttoken.commands.stop_signals import sigterm_as_ctrl_c
from lasttoken.corpus.ray_runner import _sigterm_kept


def init_as_ray_does() -> None:
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(number))


def test_sigterm_after_ray_has_begun_is_the_programs_own():
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c() as stop:  # noqa: PT012
        with _sigterm_kept():
            init_as_ray_does()
        signal.raise_signal(signal.SIGTERM)
    assert stop.exit_code == 143


def test_sigterm_while_ray_begins_is_the_programs_own():
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c() as stop, _sigterm_kept():  # noqa: PT012
        init_as_ray_does()
        signal.raise_signal(signal.SIGTERM)
    assert stop.exit_code == 143


def test_a_program_without_a_handler_gets_rays():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a test before may have begun Ray
    try:
        with _sigterm_kept():
            init_as_ray_does()
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
