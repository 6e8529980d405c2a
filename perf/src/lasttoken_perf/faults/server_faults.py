"""Harm to a server's processes: killed, restarted, replaced, without memory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from lasttoken.local import LocalTriton
from lasttoken_perf.errors import ToolUnavailable
from lasttoken_perf.faults.stage import (
    AFTER,
    BEFORE,
    RECOVERY_S,
    Finding,
    Stage,
    finding_of,
    supervised,
    wait_until,
)
from lasttoken_perf.server_processes import server_processes

_CGROUPS = Path("/sys/fs/cgroup")
_PRESSURE_S = 15.0
_GROUP_LIMIT_BYTES = 192 * 1024 * 1024
_EATER = (
    "import time\n"
    "eaten = []\n"
    "while True:\n"
    "    eaten.append(b'x' * 4_000_000)\n"
    "    time.sleep(0.02)\n"
)


def killed_process(stage: Stage, victim: str) -> Finding:
    """Kill the ``tokenizer``, the ``encoder`` or the ``server`` of a supervised server."""
    with supervised(stage) as (server, supervisor), stage.load(server.grpc_url) as load:
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        name = "server" if victim == "server" else f"{stage.model}_{victim}"
        harmed_s = time.monotonic()
        os.kill(server_processes(server.pid)[name].pid, signal.SIGKILL)
        wait_until(lambda: supervisor.restarts > 0, "the supervisor noticed nothing")
        load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
    what = "tritonserver" if victim == "server" else f"the {victim}'s Python process"
    return finding_of(f"kill -9 of {what} under load", load, harmed_s=harmed_s)


def rolling_restart(stage: Stage) -> Finding:
    """SIGTERM one of two servers under load, start it anew, then the other one."""
    with (
        stage.server() as first,
        stage.server() as second,
        stage.load(f"{first.grpc_url},{second.grpc_url}") as load,
    ):
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        begin_s = time.monotonic()
        for server in (first, second):
            harmed_s = time.monotonic()
            server.restart()
            load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
    fault = "rolling restart (SIGTERM) of two servers behind one client"
    return finding_of(fault, load, harmed_s=begin_s)


def new_version(stage: Stage) -> Finding:
    """Bring up a second server with a new export, move to it under load, retire the old one."""
    with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(stage.repository, copy)
        with stage.server() as old:
            port = int(old.grpc_url.rpartition(":")[2])
            standby = LocalTriton(copy, cache_folder=stage.cache_folder)
            with standby, stage.load(f"{old.grpc_url},{standby.grpc_url}") as load:
                load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
                harmed_s = time.monotonic()
                old.stop()
                load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
                assert not _listens(port), "the old server still listens"
    fault = "a new version beside the old one, which is retired under load"
    return finding_of(fault, load, harmed_s=harmed_s)


def failing_allocations(stage: Stage) -> Finding:
    """Let the encoder's allocations fail for a while, as under an address space limit."""
    with supervised(stage) as (server, supervisor), stage.load(server.grpc_url) as load:
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        encoder = server_processes(server.pid)[f"{stage.model}_encoder"]
        # Nothing more than it has: mappings that exist stay, new ones fail.
        encoder.rlimit(psutil.RLIMIT_AS, (encoder.memory_info().vms, psutil.RLIM_INFINITY))
        time.sleep(_PRESSURE_S)
        if encoder.is_running():
            encoder.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        relieved_s = time.monotonic()
        load.wait_for_right(AFTER, after_s=relieved_s, timeout_s=RECOVERY_S)
        restarts = supervisor.restarts
    fault = f"no more memory for the encoder (RLIMIT_AS at what it has) for {_PRESSURE_S:g} s"
    seen = "the encoder dies, its server is started anew" if restarts else "the encoder lives on"
    return finding_of(fault, load, harmed_s=relieved_s, seen=seen)


def out_of_memory(stage: Stage) -> Finding:
    """Let a neighbour in the encoder's memory cgroup eat until the kernel kills the encoder."""
    fault = "a neighbour in its cgroup eats memory until the kernel's OOM killer takes the encoder"
    try:
        with (
            _memory_group() as group,
            supervised(stage) as (server, supervisor),
            stage.load(server.grpc_url) as load,
        ):
            load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
            encoder = server_processes(server.pid)[f"{stage.model}_encoder"]
            eater = subprocess.Popen([sys.executable, "-c", _EATER])
            try:
                for process in (encoder.pid, eater.pid):
                    (group / "cgroup.procs").write_text(str(process))
                begin_s = time.monotonic()
                wait_until(lambda: not _alive(encoder), "the kernel did not kill the encoder")
                harmed_s = time.monotonic()
                eaten_for_s = harmed_s - begin_s
            finally:
                eater.kill()
                eater.wait()
            wait_until(lambda: supervisor.restarts > 0, "the supervisor noticed nothing")
            load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
    except ToolUnavailable as error:
        return Finding(fault=fault, seen=f"not tried: {error}", lost="-", impact=None)
    seen = f"killed after {eaten_for_s:.0f} s of reclaim and growth"
    return finding_of(fault, load, harmed_s=harmed_s, seen=seen)


@contextmanager
def _memory_group() -> Iterator[Path]:
    """A memory cgroup (v1 or v2) of our own; what is in it is moved out at the end."""
    v1 = (_CGROUPS / "memory").is_dir()
    parent = _CGROUPS / "memory" if v1 else _CGROUPS
    group = parent / f"lasttoken-faults-{os.getpid()}"
    limit = group / ("memory.limit_in_bytes" if v1 else "memory.max")
    try:
        group.mkdir()
        limit.write_text(str(_GROUP_LIMIT_BYTES))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        raise ToolUnavailable(f"no memory cgroup can be made here ({error})") from None
    try:
        yield group
    finally:
        for process in (group / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(process)
        group.rmdir()


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
