"""A server whose queue is long and full is alive and ready, and its health checks say so."""

import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from gateway.gateway_process import GatewayProcess
from lasttoken import DeadlineExceeded, EmbeddingClient, LasttokenError, RetryPolicy
from lasttoken.local.supervisor import probe_model

pytestmark = pytest.mark.server
MODEL = "smollm2_135m"
FLOOD_S = 20.0
"""Time after which the encoder drops what it has not computed: the next test finds it idle."""


@pytest.fixture
def flooded(smollm2_server):
    """The server, with far more interactive rows waiting than it computes in the test's time."""
    texts = [f"{number} sheep and no wolf in sight of the old tower. " * 8 for number in range(64)]

    def ask():
        retry = RetryPolicy(max_attempts=1)
        with (
            EmbeddingClient(smollm2_server.grpc_url, MODEL, retry=retry) as client,
            suppress(LasttokenError),
        ):
            client.embed(texts, timeout_s=FLOOD_S)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    with EmbeddingClient(smollm2_server.grpc_url, MODEL) as client:
        deadline = time.monotonic() + 10
        while True:  # until a text would not be answered in time
            assert time.monotonic() < deadline, "the server was not kept busy"
            try:
                client.embed("a text", timeout_s=2)
            except DeadlineExceeded:
                break
    yield smollm2_server
    for caller in callers:
        caller.join()


def test_health_checks_pass_what_waits(flooded, tmp_path):
    assert probe_model(flooded.grpc_url, MODEL, 5) is None
    with GatewayProcess(flooded.grpc_url, tmp_path / "log", "--default-model", MODEL) as gateway:
        assert httpx.get(f"{gateway.url}/ready", timeout=30).json() == {"status": "ready"}
    url = flooded.http_url if "//" in flooded.http_url else f"http://{flooded.http_url}"
    script = Path(__file__).parents[2] / "docker" / "scripts" / "probe.py"
    command = [sys.executable, script, MODEL, "--url", url, "--timeout", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with EmbeddingClient(flooded.grpc_url, MODEL) as client, pytest.raises(DeadlineExceeded):
        client.embed("still behind the others", timeout_s=1)
