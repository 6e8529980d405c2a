from __future__ import annotations

import httpx
import pytest

from gateway.gateway_process import GatewayProcess
from gateway.small_models import write_small_models
from lasttoken.local import LocalTriton
from server.toy_repository import write_toy_repository


@pytest.fixture(scope="session")
def gateway(smollm2_server, tmp_path_factory):
    """A gateway to the demonstration model that wants no keys."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    options = ("--alias", "text-embedding-3-small=smollm2_135m", "--max-texts", "300")
    with GatewayProcess(smollm2_server.grpc_url, log, *options) as process:
        yield process


@pytest.fixture(scope="session")
def http(gateway):
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def toy_server(tmp_path_factory):
    """A Triton whose model misbehaves when a text tells it to."""
    folder = write_toy_repository(tmp_path_factory.mktemp("toy-gateway") / "repository")
    with LocalTriton(folder) as server:
        yield server


@pytest.fixture(scope="session")
def toy_gateway(toy_server, tmp_path_factory):
    log = tmp_path_factory.mktemp("toy-gateway") / "log"
    with GatewayProcess(toy_server.grpc_url, log, "--timeout", "1.5") as process:
        yield process


@pytest.fixture(scope="session")
def small_server(tmp_path_factory):
    """A Triton with two tiny models."""
    with LocalTriton(write_small_models(tmp_path_factory.mktemp("small"))) as server:
        yield server


@pytest.fixture(scope="session")
def small_gateway(small_server, tmp_path_factory):
    log = tmp_path_factory.mktemp("small-gateway") / "log"
    with GatewayProcess(small_server.grpc_url, log, "--default-model", "short") as process:
        yield process


@pytest.fixture(scope="session")
def small_http(small_gateway):
    with httpx.Client(base_url=small_gateway.url, timeout=60) as client:
        yield client
