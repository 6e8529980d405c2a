"""One server process: started in its own process group, ended with its parent, stopped cleanly."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lasttoken.errors import ServerStartFailed
from lasttoken.interrupts import interrupts_held

# The program asks the kernel to be told when its parent dies, then becomes the server. Doing this
# in a program of its own, not in a forked copy of this process, is safe beside threads and gRPC.
# Source: prctl(2), PR_SET_PDEATHSIG = 1.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, libraries, program = sys.argv[1:4]
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(parent):
    sys.exit("the parent process has ended")
if libraries:
    os.environ["LD_LIBRARY_PATH"] = libraries
os.execv(program, sys.argv[3:])
"""

_TICKS = os.sysconf("SC_CLK_TCK")
_GROUP_GRACE_S = 2.0
_KILLED_S = 1.0
"""Time for the kernel to end what was killed. Where nobody reaps orphans, they stay as zombies."""
_SIGNALS_S = 0.5
"""Longest wait at a time: a signal that comes just before one begins does not end it, and Python
runs its handler only afterwards."""


class ServerProcess:
    """A running server program with its output in a log file.

    The kernel sends the death signal when the *thread* that started a process ends, so a thread of
    this object starts the process and lives as long as it does.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        library_path: str,
        log_path: Path,
    ) -> None:
        """Start the program.

        Args:
            command: Absolute path of the program and its arguments.
            environment: Its whole environment, without LD_LIBRARY_PATH.
            library_path: Its LD_LIBRARY_PATH, or "" to leave that alone.
            log_path: File that its output is appended to.

        Raises:
            ServerStartFailed: The program cannot be run at all.
        """
        self.log_path = log_path
        self._command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        self._command += [library_path, *command]
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._start_error: OSError | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._own, name="lasttoken-server-owner", daemon=True).start()
        with interrupts_held():  # else nobody would know of the process that has just begun
            self._started.wait()
        if self._start_error is not None:
            raise ServerStartFailed(f"cannot run {command[0]!r}: {self._start_error}")

    def _own(self) -> None:
        try:
            with self.log_path.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C in a terminal reaches us alone
                )
        except OSError as error:
            self._start_error = error
            return
        finally:
            self._started.set()
        self._process.wait()
        self._ended.set()

    @property
    def pid(self) -> int:
        """Process id, which is the id of its process group too."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal, or None while it runs."""
        assert self._process is not None
        return self._process.returncode if self._ended.is_set() else None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the program to end; returns whether it has."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended.wait(max(0.0, min(_SIGNALS_S, until - time.monotonic()))):
            if time.monotonic() >= until:
                return False
        return True

    def processor_s(self) -> float:
        """Return the processor time that its group's living processes have used, in seconds."""
        return sum(_ticks(folder, self.pid) for folder in Path("/proc").glob("[0-9]*")) / _TICKS

    def log(self) -> str:
        """Return all that this process has written to the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode("utf-8", "replace").rstrip()
        except OSError as error:
            return f"(cannot read the log: {error})"

    def stop(self, timeout_s: float) -> None:
        """End the program: SIGTERM, wait, and then SIGKILL for what is left of its group.

        An exception that ends the wait, such as a second Ctrl-C, comes out when all of the group
        has been killed.

        Args:
            timeout_s: How long work in flight may take to finish, in seconds.
        """
        assert self._process is not None
        try:
            if not self._ended.is_set():
                self._process.terminate()
                self.wait(timeout_s)
            if self._ended.is_set():
                _wait_for_group(self.pid, _GROUP_GRACE_S)  # the stubs end a moment after the server
        finally:
            with interrupts_held():
                self.kill()
                self._ended.wait()
                _wait_for_group(self.pid, _KILLED_S)

    def kill(self) -> None:
        """Send SIGKILL to what is left of its group; `stop` still has to be called."""
        if _group_exists(self.pid):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def _ticks(folder: Path, group: int) -> int:
    """Return a process's clock ticks, user's and system's; 0 for one of another group.

    Source: proc_pid_stat(5); the fields behind the name, which may hold spaces and brackets.
    """
    try:
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0


def _wait_for_group(group: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while _group_exists(group) and time.monotonic() < deadline:
        time.sleep(0.02)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
