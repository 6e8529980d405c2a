"""A wall clock that jumps: libfaketime from Debian, for servers, gateways and callers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lasttoken.local.cache_folder import build_once, default_cache_folder
from lasttoken_perf.errors import ToolUnavailable, WrongAnswer
from lasttoken_perf.faults.http_callers import openai_load
from lasttoken_perf.faults.stage import AFTER, BEFORE, RECOVERY_S, Finding, Stage, finding_of
from lasttoken_perf.gateway_process import gateway_process

_JUMPS = ("+2h", "-1d", "+0")
_CALLER_S = 20.0
_LIBRARY = "libfaketimeMT.so.1"  # for programs with threads
_CALLER = """
import json, sys, time, collections
from lasttoken import EmbeddingClient, LasttokenError
client, counts, walls = EmbeddingClient(sys.argv[1], sys.argv[2]), collections.Counter(), []
client.embed("a text", timeout_s=30)
print("ready", flush=True)
end_s = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end_s:
    walls.append(time.time())
    try:
        client.embed("a text", timeout_s=15)
        counts["right"] += 1
    except LasttokenError as error:
        counts[type(error).__name__] += 1
print(json.dumps([counts, min(walls), max(walls)]))
"""


def jumping_clock(stage: Stage) -> Finding:
    """Set the wall clock of the server, a gateway and a caller hours ahead, and days back."""
    fault = "the wall clock of server, gateway and a caller jumps: " + ", ".join(_JUMPS)
    try:
        library = _libfaketime(stage.cache_folder)
    except ToolUnavailable as error:
        return Finding(fault=fault, seen=f"not tried: {error}", lost="-", impact=None)
    with tempfile.TemporaryDirectory(prefix="lasttoken-clock.") as folder:
        clock = Path(folder) / "clock"
        clock.write_text("+0")
        fake = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",  # look at the file at each question
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as a real jump does not touch it either
            "DONT_FAKE_MONOTONIC": "1",
        }
        with (
            _environment(fake),
            stage.server() as server,
            gateway_process(server.grpc_url) as gateway,
            openai_load(stage, [gateway.url], retries=0) as load,
        ):
            load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
            caller = _caller(server.grpc_url, stage.model)
            begin_s = time.monotonic()
            for jump in _JUMPS:
                clock.write_text(jump)
                load.wait_for_right(AFTER, after_s=time.monotonic(), timeout_s=RECOVERY_S)
            counts, earliest, latest = json.loads(caller.communicate(timeout=RECOVERY_S)[0])
    failed = {name: count for name, count in counts.items() if name != "right"}
    if failed or not counts:
        raise WrongAnswer(f"a caller whose clock jumps saw {counts}")
    if latest - earliest < 24 * 3600:
        raise WrongAnswer("the caller's clock did not jump: libfaketime has no effect here")
    seen = f"the caller whose clock jumps, by gRPC: {counts['right']} right, no error"
    return finding_of(fault, load, harmed_s=begin_s, seen=seen)


def _caller(url: str, model: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CALLER, url, model, str(_CALLER_S)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    return process


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _libfaketime(cache_folder: Path | None) -> Path:
    """The library, fetched from Debian once; nothing of the system changes."""

    def build(folder: Path) -> None:
        for command in (
            ["apt-get", "download", "libfaketime"],
            ["sh", "-c", "dpkg-deb --extract libfaketime_*.deb ."],
        ):
            try:
                subprocess.run(
                    command, cwd=folder, check=True, capture_output=True, text=True, timeout=120
                )
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or error
                raise ToolUnavailable(
                    f"Debian's libfaketime cannot be fetched ({str(said).strip()[-200:]}); run "
                    "`apt-get update` first"
                ) from None

    folder = build_once((cache_folder or default_cache_folder()) / "libfaketime", build)
    found = sorted(folder.rglob(_LIBRARY))
    if not found:
        raise ToolUnavailable(f"Debian's libfaketime has no {_LIBRARY}")
    return found[0]
