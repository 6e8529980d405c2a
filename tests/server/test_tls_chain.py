"""TLS between caller, gateway and Triton: right, of a stranger, expired, missing; all for real."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme

from gateway.gateway_process import GatewayProcess
from lasttoken import EmbeddingClient, ModelUnavailable, RetryPolicy, Tls, TlsFailed
from lasttoken.gateway import GatewaySettings, create_app
from server.tls_triton import tls_triton
from server.toy_repository import MODEL, toy_vector, write_toy_repository

pytestmark = pytest.mark.server

PAST = {
    "not_before": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    "not_after": datetime.datetime(2020, 2, 1, tzinfo=datetime.timezone.utc),
}
ONE_TRY = RetryPolicy(max_attempts=1)


class Files:
    """A certificate's files, as a secret holds them."""

    def __init__(self, folder: Path, certificate: trustme.LeafCert, ca: trustme.CA) -> None:
        folder.mkdir()
        self.cert, self.key, self.ca = (folder / n for n in ("tls.crt", "tls.key", "ca.crt"))
        certificate.cert_chain_pems[0].write_to_path(self.cert)
        certificate.private_key_pem.write_to_path(self.key)
        ca.cert_pem.write_to_path(self.ca)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("certificates")
    stranger = trustme.CA()
    here = ("localhost", "127.0.0.1")
    return {
        "server": Files(folder / "server", authority.issue_cert(*here), authority),
        "expired server": Files(folder / "expired", authority.issue_cert(*here, **PAST), authority),
        "caller": Files(folder / "caller", authority.issue_cert("caller@example.org"), authority),
        "stranger": Files(folder / "stranger", stranger.issue_cert("caller@example.org"), stranger),
        "expired caller": Files(
            folder / "old", authority.issue_cert("caller@example.org", **PAST), authority
        ),
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_toy_repository(tmp_path_factory.mktemp("tls-chain") / "repository")


def triton(repository, files: Files, log, cache_folder):
    arguments = [
        "--grpc-use-ssl=1", "--grpc-use-ssl-mutual=1", f"--grpc-server-cert={files.cert}",
        f"--grpc-server-key={files.key}", f"--grpc-root-cert={files.ca}",
    ]  # fmt: skip
    return tls_triton(repository, log, cache_folder=cache_folder, tls_arguments=arguments)


@pytest.fixture(scope="module")
def served(tmp_path_factory, repository, files, cache_folder) -> Iterator[str]:
    """A Triton that asks callers for a certificate."""
    log = tmp_path_factory.mktemp("log") / "right"
    with triton(repository, files["server"], log, cache_folder) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def served_expired(tmp_path_factory, repository, files, cache_folder) -> Iterator[str]:
    """A Triton whose own certificate has expired."""
    log = tmp_path_factory.mktemp("log") / "expired"
    with triton(repository, files["expired server"], log, cache_folder) as port:
        yield f"127.0.0.1:{port}"


def tls_of(files: Files | None, ca: Files) -> Tls:
    own = {} if files is None else {"certificate_chain": files.cert, "private_key": files.key}
    return Tls(root_certificates=ca.ca, **own)


# --- client and Triton ----------------------------------------------------------------------------


def test_a_server_whose_certificate_has_expired_is_not_trusted(served_expired, files):
    tls = tls_of(files["caller"], files["server"])
    with (
        pytest.raises(TlsFailed, match="CERTIFICATE_VERIFY_FAILED"),
        EmbeddingClient(served_expired, MODEL, tls=tls, retry=ONE_TRY) as client,
    ):
        client.embed("a text", timeout_s=20)


def test_a_client_whose_certificate_has_expired_is_turned_away(served, files):
    tls = tls_of(files["expired caller"], files["server"])
    with (
        pytest.raises(ModelUnavailable, match="a client's certificate"),
        EmbeddingClient(served, MODEL, tls=tls, retry=ONE_TRY) as client,
    ):
        client.embed("a text", timeout_s=20)


# --- gateway and Triton ---------------------------------------------------------------------------


def ask(url: str, tls: Tls | None, timeout_s: float = 5.0) -> httpx.Response:
    """Ask a gateway in this process, whose connection to Triton is real."""

    async def run() -> httpx.Response:
        app = create_app(GatewaySettings(url=url, tls=tls, timeout_s=timeout_s))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
        ):
            payload = {"model": MODEL, "input": "a text"}
            return await client.post("/v1/embeddings", json=payload, timeout=30)

    return asyncio.run(run())


def test_the_gateway_shows_triton_its_certificate(served, files):
    answer = ask(served, tls_of(files["caller"], files["server"]))
    assert answer.status_code == 200, answer.text
    vector = np.array(answer.json()["data"][0]["embedding"], np.float32)
    assert np.array_equal(vector, toy_vector("a text"))


@pytest.mark.parametrize(
    ("own", "trusted"),
    [
        ("caller", "stranger"),  # Triton is a stranger to the gateway
        ("stranger", "server"),  # the gateway is one to Triton
        ("expired caller", "server"),
        (None, "server"),  # it has no certificate
        (None, None),  # nor TLS at all
    ],
)
def test_the_gateway_and_triton_refuse_each_other(served, files, own, trusted):
    tls = None if trusted is None else tls_of(files[own] if own else None, files[trusted])
    answer = ask(served, tls)
    assert answer.status_code in (502, 503, 504), answer.text
    assert "embedding" not in answer.json()


def test_the_gateway_does_not_trust_an_expired_triton(served_expired, files):
    # Time for another attempt: on a busy machine a handshake can take longer than gRPC gives one.
    answer = ask(served_expired, tls_of(files["caller"], files["server"]), timeout_s=25.0)
    assert answer.status_code == 502, answer.text


# --- caller and gateway ---------------------------------------------------------------------------


def gateway_options(own: Files, upstream: Files) -> tuple[str, ...]:
    return (
        "--tls-certificate", str(own.cert), "--tls-key", str(own.key),
        "--tls-client-ca", str(own.ca), "--upstream-tls-ca", str(own.ca),
        "--upstream-tls-cert", str(upstream.cert), "--upstream-tls-key", str(upstream.key),
    )  # fmt: skip


@pytest.fixture(scope="module")
def gateway(served, files, tmp_path_factory) -> Iterator[str]:
    """Encrypted on both sides, with certificates asked for on both."""
    log = tmp_path_factory.mktemp("gateway-tls") / "log"
    options = gateway_options(files["server"], files["caller"])
    with GatewayProcess(served, log, *options) as process:
        yield process.url


def through(url: str, own: Files | None, trusted: Files) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(trusted.ca))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    with httpx.Client(verify=context, timeout=30) as client:
        return client.post(f"{url}/v1/embeddings", json={"model": MODEL, "input": "a text"})


def test_caller_gateway_and_triton_know_each_other(gateway, files):
    answer = through(gateway, files["caller"], files["server"])
    assert answer.status_code == 200, answer.text
    vector = np.array(answer.json()["data"][0]["embedding"], np.float32)
    assert np.array_equal(vector, toy_vector("a text"))


@pytest.mark.parametrize("own", [None, "stranger", "expired caller"])
def test_the_gateway_turns_callers_away(gateway, files, own):
    with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
        through(gateway, files[own] if own else None, files["server"])


def test_a_caller_does_not_trust_a_strange_gateway(gateway, files):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        through(gateway, files["caller"], files["stranger"])


def test_a_caller_does_not_trust_a_gateway_whose_certificate_has_expired(served, files, tmp_path):
    options = gateway_options(files["expired server"], files["caller"])
    with (
        GatewayProcess(served, tmp_path / "log", *options) as process,
        pytest.raises(httpx.ConnectError, match="certificate has expired"),
    ):
        through(process.url, files["caller"], files["server"])
