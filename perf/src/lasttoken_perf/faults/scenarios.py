"""The faults: each does its harm to a server of its own under load, and waits for service."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from lasttoken import EmbeddingClient, RepositoryInvalid
from lasttoken.local import LocalTriton, SupervisionOptions, Supervisor
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import ExportError
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.faults.load import Impact, Load, impact_of

_RECOVERY_S = 120.0
_BEFORE, _AFTER = 40, 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every scenario works with.

    Attributes:
        repository: An exported repository; not to be changed.
        model: Its ensemble.
        catalogue_name: Of the model.
        expected: Vectors of the texts of the load.
        cache_folder: Of packaged weights and Triton.
        say: Told what is being done.
    """

    repository: Path
    model: str
    catalogue_name: str
    expected: Mapping[str, NDArray[np.float32]]
    cache_folder: Path | None
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one fault came to.

    Attributes:
        fault: What was done.
        seen: What callers or operators see.
        impact: Of the load, where there was one.
        alert: Alert that fires if it lasts; empty where none does.
    """

    fault: str
    seen: str
    impact: Impact | None
    alert: str


def killed_process(stage: Stage, victim: str) -> Finding:
    """Kill the ``tokenizer``, the ``encoder`` or the ``server`` of a supervised server."""
    with _supervised(stage) as (server, supervisor), _load(stage, server.grpc_url) as load:
        load.wait_for_right(_BEFORE, after_s=0, timeout_s=_RECOVERY_S)
        if victim == "server":
            os.kill(server.pid, signal.SIGKILL)
        else:
            os.kill(_stub(server.pid, f"{stage.model}_{victim}"), signal.SIGKILL)
        harmed_s = time.monotonic()
        _wait_until(lambda: supervisor.restarts > 0, "the supervisor noticed nothing")
        load.wait_for_right(_AFTER, after_s=harmed_s, timeout_s=_RECOVERY_S)
    what = "tritonserver" if victim == "server" else f"the {victim}'s Python process"
    alert = "LasttokenServerDown" if victim == "server" else "LasttokenInferencesFail"
    return _finding(f"kill -9 of {what} under load", load, alert)


def rolling_restart(stage: Stage) -> Finding:
    """SIGTERM one of two servers under load, start it anew, then the other one."""
    with (
        LocalTriton(stage.repository, cache_folder=stage.cache_folder) as first,
        LocalTriton(stage.repository, cache_folder=stage.cache_folder) as second,
        _load(stage, f"{first.grpc_url},{second.grpc_url}") as load,
    ):
        load.wait_for_right(_BEFORE, after_s=0, timeout_s=_RECOVERY_S)
        for server in (first, second):
            harmed_s = time.monotonic()
            server.restart()
            load.wait_for_right(_AFTER, after_s=harmed_s, timeout_s=_RECOVERY_S)
    return _finding("rolling restart (SIGTERM) of two servers behind one client", load, "")


def new_version(stage: Stage) -> Finding:
    """Bring up a second server with a new export, move to it under load, retire the old one."""
    with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
        copy = Path(folder) / "repository"
        shutil.copytree(stage.repository, copy)
        with LocalTriton(stage.repository, cache_folder=stage.cache_folder) as old:
            port = int(old.grpc_url.rpartition(":")[2])
            standby = LocalTriton(copy, cache_folder=stage.cache_folder)
            with standby, _load(stage, f"{old.grpc_url},{standby.grpc_url}") as load:
                load.wait_for_right(_BEFORE, after_s=0, timeout_s=_RECOVERY_S)
                harmed_s = time.monotonic()
                old.stop()
                load.wait_for_right(_AFTER, after_s=harmed_s, timeout_s=_RECOVERY_S)
                assert not _listens(port), "the old server still listens"
    return _finding("a new version beside the old one, which is retired under load", load, "")


def vanished_clients(stage: Stage) -> Finding:
    """Callers that send half a message and hang, or vanish in the middle of a request."""
    with (
        LocalTriton(stage.repository, cache_folder=stage.cache_folder) as server,
        _load(stage, server.grpc_url) as load,
    ):
        load.wait_for_right(_BEFORE, after_s=0, timeout_s=_RECOVERY_S)
        harmed_s = time.monotonic()
        host, _, port = server.grpc_url.rpartition(":")
        hanging = []
        for _ in range(50):
            connection = socket.create_connection((host, int(port)), timeout=10)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x10\x01")  # half a frame
            hanging.append(connection)
        vanishing = [
            threading.Thread(target=_vanish, args=(server.grpc_url, stage.model)) for _ in range(8)
        ]
        for thread in vanishing:
            thread.start()
        for thread in vanishing:
            thread.join(60)
        load.wait_for_right(_AFTER, after_s=harmed_s, timeout_s=_RECOVERY_S)
        for connection in hanging:
            connection.close()
    fault = "50 callers that hang in half a message, 8 that vanish in mid-request"
    return _finding(fault, load, "")


def corrupted_weights(stage: Stage) -> Finding:
    """Flip one bit of the weights; then swap the tokenizer for another file."""
    seen = []
    for name, change in (
        (f"{stage.model}_encoder/1/encoder.onnx.data", _flip_a_bit),
        (f"{stage.model}_tokenizer/1/tokenizer.json", lambda path: path.write_text("{}")),
    ):
        with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
            copy = Path(folder) / "repository"
            shutil.copytree(stage.repository, copy)
            change(copy / name)
            try:
                LocalTriton(copy, cache_folder=stage.cache_folder).start()
            except RepositoryInvalid as error:
                seen.append(str(error).partition(": sha256")[0].rpartition(": ")[2])
            else:
                raise WrongAnswer(f"a server started with a changed {name}")
    return Finding(
        fault="one bit of the weights flipped; the tokenizer swapped",
        seen=f"RepositoryInvalid names the file ({', '.join(Path(s).name for s in seen)}); "
        "nothing is loaded",
        impact=None,
        alert="LasttokenServerDown",
    )


def full_disk(stage: Stage) -> Finding:
    """Export onto a file system that is too small, over a model that is there."""
    with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            return Finding(fault="a full disk during an export", impact=None, alert="",
                           seen=f"not tried: {done.stderr.strip()}")  # fmt: skip
        try:
            return _export_onto(Path(folder), stage)
        finally:
            subprocess.run(["umount", folder], check=True, capture_output=True)


def _export_onto(folder: Path, stage: Stage) -> Finding:
    there = folder / stage.model / "config.pbtxt"
    there.parent.mkdir(parents=True)
    there.write_text("what was there")
    entry = catalogue_entry(stage.catalogue_name)
    checkpoint = open_checkpoint(entry.source, cache_folder=stage.cache_folder)
    try:
        export_model(checkpoint, entry, ExportOptions(output=folder))
    except (ExportError, OSError) as error:
        left = sorted(path.name for path in folder.iterdir())
        if left != [stage.model] or there.read_text() != "what was there":
            raise WrongAnswer(f"the failed export left {left}") from None
        return Finding(
            fault="a full disk during an export",
            seen=f"{type(error).__name__}, told before a byte is written; the repository stays as "
            "it was",
            impact=None,
            alert="",
        )
    raise WrongAnswer("an export fitted into 96 MB")


def _finding(fault: str, load: Load, alert: str) -> Finding:
    impact = impact_of(load.outcomes)
    if impact.wrong:
        raise WrongAnswer(f"{fault}: {impact.wrong} answers were not their text's")
    errors = ", ".join(f"{count} {name}" for name, count in sorted(impact.errors.items()))
    seen = f"{errors}; retried by the caller" if errors else "nothing"
    return Finding(fault=fault, seen=seen, impact=impact, alert=alert)


@contextmanager
def _supervised(stage: Stage) -> Iterator[tuple[LocalTriton, Supervisor]]:
    with LocalTriton(stage.repository, cache_folder=stage.cache_folder) as server:
        supervisor = Supervisor(server, SupervisionOptions(), announce=stage.say)
        thread = threading.Thread(target=supervisor.run, daemon=True)
        thread.start()
        try:
            yield server, supervisor
        finally:
            supervisor.stop()
            thread.join(60)


def _load(stage: Stage, url: str) -> Load:
    return Load(lambda: EmbeddingClient(url, stage.model), stage.expected)


def _stub(server_pid: int, model: str) -> int:
    """Process id of a Python model of a server."""
    for child in psutil.Process(server_pid).children(recursive=True):
        words = child.cmdline()
        if "triton_python_backend_stub" in words[0] and f"/{model}/" in words[1]:
            return child.pid
    raise WrongAnswer(f"no process of {model} below {server_pid}")


def _vanish(url: str, model: str) -> None:
    """Send a request in a process of its own and kill that at once."""
    script = (
        "import sys; from lasttoken import EmbeddingClient;"
        "client = EmbeddingClient(sys.argv[1], sys.argv[2]);"
        "client.embed('ready'); print('ready', flush=True);"
        "client.embed(['a long text ' * 200] * 32, priority='bulk')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, url, model],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.kill()
    process.wait(30)


def _import_path() -> list[str]:
    return [path for path in sys.path if path]


def _flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _RECOVERY_S
    while not condition():
        if time.monotonic() > deadline:
            raise WrongAnswer(otherwise)
        time.sleep(0.05)


SCENARIOS: Mapping[str, Callable[[Stage], Finding]] = {
    "tokenizer": lambda stage: killed_process(stage, "tokenizer"),
    "encoder": lambda stage: killed_process(stage, "encoder"),
    "server": lambda stage: killed_process(stage, "server"),
    "rolling": rolling_restart,
    "version": new_version,
    "clients": vanished_clients,
    "weights": corrupted_weights,
    "disk": full_disk,
}
"""By the name on the command line."""
