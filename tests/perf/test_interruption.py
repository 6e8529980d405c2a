"""SIGINT and SIGTERM: one line, the signal's exit code, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lasttoken_perf.interruption import Interrupted, signals_unwind

WORKS = """
import subprocess, sys, tempfile, time
from lasttoken_perf import cli, commands
from lasttoken_perf.command import Command

def run(options):
    with tempfile.TemporaryDirectory(prefix="lasttoken.") as folder:
        forgotten = subprocess.Popen(["sleep", "100"])
        try:
            print(folder, forgotten.pid, flush=True)
            time.sleep(100)
        finally:
            print("ending", flush=True)
            sys.stdin.readline()

commands.SUMMARIES = {"x": "x"}
cli.load_command = lambda name: Command(add_arguments=lambda parser: None, run=run)
sys.exit(cli.main(["x"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_begun_is_ended(number, code):
    with subprocess.Popen(
        [sys.executable, "-c", WORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        folder, child = process.stdout.readline().split()
        assert Path(folder).is_dir()
        process.send_signal(number)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(number)  # as `timeout` does, while things are being ended
        time.sleep(0.1)
        _, said = process.communicate("go on\n", timeout=60)
    assert process.returncode == code
    assert said == f"interrupted by {number.name}\n"
    assert not Path(folder).exists()
    assert not psutil.pid_exists(int(child))


def test_processes_that_others_started_are_left_alone():
    with subprocess.Popen(["sleep", "100"]) as other:
        with pytest.raises(Interrupted), signals_unwind():
            os.kill(os.getpid(), signal.SIGTERM)
        alive = other.poll() is None
        other.kill()
    assert alive


def test_handlers_are_put_back_and_what_is_ignored_stays_so():
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_unwind():
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Interrupted, match="SIGTERM") as raised:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
