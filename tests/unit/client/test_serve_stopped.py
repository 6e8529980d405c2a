"""`lasttoken serve` and signals: the first one lets work finish, the second ends the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A server that takes its time to end, with a child and shared memory, in place of tritonserver.
SERVER = """
import signal, subprocess, sys, time
def asked(*_):
    print("asked", flush=True)
    time.sleep({seconds})
    child.kill()
    sys.exit(0)
child = subprocess.Popen(["sleep", "60"])
signal.signal(signal.SIGTERM, asked)
print("child", child.pid, flush=True)
time.sleep(60)
"""

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from lasttoken import cli
from lasttoken.local import server as local
from lasttoken.local.program import ServerProgram
from lasttoken.local.repository import RepositoryModel

signal.signal(signal.SIGINT, signal.default_int_handler)
program, memory = sys.argv[1:3]

def wait_until_ready(process, grpc_url, models, *, server_id, timeout_s):
    while "child" not in process.log():
        time.sleep(0.01)
    Path(memory).write_text(f"/dev/shm/{server_id}_1")
    Path(f"/dev/shm/{server_id}_1").write_bytes(b"x")
    if os.environ.get("NEVER_READY"):
        print("loading", flush=True)
        time.sleep(60)

local.find_program = lambda *_: ServerProgram(
    path=program, arguments=(), environment=dict(os.environ), library_path=""
)
local.read_repository = lambda _: ()
local.wait_until_ready = wait_until_ready
sys.exit(cli.main(["serve", ".", "--grpc-port", "0", "--http-port", "0", "--metrics-port", "0",
                   "--probe-interval", "0", "--json", *sys.argv[3:]]))
"""


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class Served:
    """A `lasttoken serve` whose server takes so many seconds to end."""

    def __init__(self, folder: Path, seconds: float, *arguments: str, **environment: str) -> None:
        program, memory = folder / "program", folder / "memory"
        program.write_text(f"#!{sys.executable}{SERVER.format(seconds=seconds)}")
        program.chmod(0o755)
        self.log = folder / "log"
        command = [sys.executable, "-c", PROGRAM, str(program), str(memory)]
        self.process = subprocess.Popen(
            [*command, "--log", str(self.log), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.heard = ""
        self.line = self.process.stdout.readline()
        self.memory = Path(memory.read_text())
        self.child = int(self.log.read_text().split()[1])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def send_and_hear(self, number: int) -> None:
        """Send a signal, and wait for the line with which it is answered: two may count as one."""
        self.send(number)
        self.heard += self.process.stderr.readline()

    def ended(self) -> tuple[int, str]:
        """Exit code and what was said; nothing is left of the server."""
        _, said = self.process.communicate(timeout=60)
        assert not alive(self.child)
        assert not self.memory.exists()
        return self.process.returncode, self.heard + said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def serve(tmp_path):
    running = []

    def start(seconds: float, *arguments: str, **environment: str) -> Served:
        running.append(Served(tmp_path, seconds, *arguments, **environment))
        return running[0]

    yield start
    for served in running:
        served.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_one_signal_lets_work_finish_and_says_for_how_long(serve, number, code):
    served = serve(1.0, "--stop-timeout", "45")
    pid = json.loads(served.line)["pid"]
    began = time.monotonic()
    served.send(number)
    assert served.ended() == (
        code,
        "lasttoken: stopping; requests in flight have 45 s to finish, and a second signal ends "
        "the server at once\n",
    )
    assert time.monotonic() - began >= 1.0
    assert not alive(pid)
    assert "asked" in served.log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("signals", [2, 4])
def test_a_second_signal_ends_the_server_at_once_and_all_of_it(serve, number, code, signals):
    served = serve(30)
    pid = json.loads(served.line)["pid"]
    began = time.monotonic()
    served.send_and_hear(number)
    served.send_and_hear(number)
    for _ in range(signals - 2):  # in whatever the command is doing by now
        served.send(number)
    ended, said = served.ended()
    assert time.monotonic() - began < 25
    assert ended == code
    assert not alive(pid)
    assert "ending the server at once" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("signals", [1, 2])
def test_a_server_that_loads_is_stopped_too(serve, signals):
    served = serve(30 if signals == 2 else 0.5, NEVER_READY="1")
    assert served.line == "loading\n"
    for _ in range(signals):
        served.send_and_hear(signal.SIGTERM)
    code, said = served.ended()
    assert code == (0 if signals == 1 else 143)
    assert "stopping" in said
    assert "Traceback" not in said


def test_work_may_take_longer_than_half_a_minute_when_told_so(serve):
    assert "--exit-timeout-secs=90" in serve_arguments(serve(0.1, "--stop-timeout", "90"))


def test_it_has_half_a_minute_otherwise(serve):
    assert "--exit-timeout-secs=30" in serve_arguments(serve(0.1))


def serve_arguments(served: Served) -> list[str]:
    pid = json.loads(served.line)["pid"]
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
