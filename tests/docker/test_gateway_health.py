"""The health check of the gateway's image, on real gateways of every kind of port and TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from gateway.gateway_process import GatewayProcess
from lasttoken.local.ports import free_ports

DOCKER = Path(__file__).parents[2] / "docker"
SCRIPT = DOCKER / "scripts" / "gateway_health.py"
NO_TRITON = "127.0.0.1:1"


@pytest.fixture
def certificates(tmp_path):
    """Folder of a gateway's certificate, its key and their authority."""
    authority = trustme.CA()
    issued = authority.issue_cert("embed.example.org")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    return tmp_path


def check(pid, environment=None):
    command = [sys.executable, SCRIPT, "--timeout", "5", "--process", str(pid)]
    env = os.environ | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


@pytest.mark.parametrize("told_by", ["arguments", "environment"])
@pytest.mark.parametrize("tls", ["none", "server", "both"])
def test_a_gateway_is_alive_at_its_own_port_with_its_own_tls(certificates, tls, told_by):
    [port] = free_ports("127.0.0.1", 1)
    told = {"host": "0.0.0.0"}  # noqa: S104 - as in a container
    if tls != "none":
        told |= {"tls-certificate": certificates / "tls.crt", "tls-key": certificates / "tls.key"}
    if tls == "both":
        told["tls-client-ca"] = certificates / "ca.crt"
    # The port is an argument in both: the process of the tests has `--port 0` before it.
    options, environment = ["--port", str(port)], {}
    for name, value in told.items():
        if told_by == "arguments":
            options += [f"--{name}", str(value)]
        else:
            environment[f"LASTTOKEN_GATEWAY_{name.upper().replace('-', '_')}"] = str(value)
    log = certificates / "log"
    with GatewayProcess(NO_TRITON, log, *options, env=environment) as gateway:
        assert gateway.url.startswith("https" if tls != "none" else "http:")
        done = check(gateway.process.pid, environment)
        assert done.returncode == 0, done.stderr


def test_a_gateway_that_is_gone_or_elsewhere_is_not_alive(tmp_path):
    [port, other] = free_ports("127.0.0.1", 2)
    with GatewayProcess(NO_TRITON, tmp_path / "log", "--port", str(port)):
        # Of this process, which is no gateway: all that is known is the environment.
        found = check(os.getpid(), {"LASTTOKEN_GATEWAY_PORT": str(port)})
        assert found.returncode == 0, found.stderr
        lost = check(os.getpid(), {"LASTTOKEN_GATEWAY_PORT": str(other)})
        assert lost.returncode == 1
        assert "no answer" in lost.stderr


def test_the_image_runs_it():
    text = (DOCKER / "gateway.Dockerfile").read_text()
    last_stage = text.rpartition("\nFROM ")[2]
    assert "COPY docker/scripts/gateway_health.py /opt/lasttoken/bin/" in last_stage
    assert 'CMD ["python3", "/opt/lasttoken/bin/gateway_health.py"]' in last_stage
    assert "8080/health" not in text
