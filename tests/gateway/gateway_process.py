"""The real command `lasttoken gateway` in a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx


class GatewayProcess:
    def __init__(self, upstream: str, log: Path, *options: str, env: dict[str, str] | None = None):
        self.log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("LASTTOKEN_GATEWAY_")}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lasttoken.cli", "gateway", "--url", upstream,
                 "--port", "0", *options],
                stdout=subprocess.PIPE, stderr=errors, text=True, env=inherited | (env or {}),
            )  # fmt: skip
        assert self.process.stdout is not None
        self.banner = self.process.stdout.readline()
        assert " on http" in self.banner, log.read_text()
        self.url = self.banner.split(" on ")[1].strip()
        deadline = time.monotonic() + 30
        while "serving" not in [event["event"] for event in self.events()]:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def events(self) -> list[dict]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def event_of(self, request_id: str, seconds: float = 5.0) -> dict:
        """The log line of a request, which is written after its answer."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.events():
                if event.get("request_id") == request_id:
                    return event
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def metric(self, name: str, **labels: str) -> float:
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            head, _, value = line.rpartition(" ")
            series, _, rest = head.partition("{")
            if series == name and wanted <= set(rest.rstrip("}").split(",")):
                total += float(value)
        return total
