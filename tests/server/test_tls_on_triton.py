"""TLS and mTLS against a real Triton, with certificates that live as long as the test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme

from lasttoken import (
    AsyncEmbeddingClient,
    EmbeddingClient,
    ModelUnavailable,
    RetryPolicy,
    Tls,
    TlsFailed,
)
from lasttoken.cli import main
from server.tls_triton import tls_triton
from server.toy_repository import MODEL, toy_vector, write_toy_repository

pytestmark = pytest.mark.server

ONE_TRY = RetryPolicy(max_attempts=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def served(tmp_path_factory, authority, cache_folder) -> Iterator[str]:
    """A Triton that wants a certificate of every client."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    arguments = [
        "--grpc-use-ssl=1",
        "--grpc-use-ssl-mutual=1",
        f"--grpc-server-cert={folder / 'server.pem'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-root-cert={folder / 'ca.pem'}",
    ]
    repository = write_toy_repository(folder / "repository")
    with tls_triton(
        repository, folder / "log", cache_folder=cache_folder, tls_arguments=arguments
    ) as port:
        # Of the addresses that a name has gRPC tells one, and "localhost" may have one of IPv6,
        # where nothing listens.
        yield f"127.0.0.1:{port}"


def tls_of(ca: trustme.CA, client: trustme.LeafCert | None, **more: str) -> Tls:
    own = {}
    if client is not None:
        own = {
            "certificate_chain": client.cert_chain_pems[0].bytes(),
            "private_key": client.private_key_pem.bytes(),
        }
    return Tls(root_certificates=ca.cert_pem.bytes(), **own, **more)


def embed(served: str, tls: Tls | None) -> np.ndarray:
    with EmbeddingClient(served, MODEL, tls=tls, retry=ONE_TRY) as client:
        return client.embed("a text", timeout_s=20)


def test_the_right_certificates_from_files_and_from_memory(served, authority, tmp_path):
    mine = authority.issue_cert("client@example.org")
    expected = toy_vector("a text")
    assert np.array_equal(embed(served, tls_of(authority, mine)), expected)
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = Tls(
        root_certificates=tmp_path / "ca.pem",
        certificate_chain=str(tmp_path / "cert.pem"),
        private_key=tmp_path / "key.pem",
    )
    assert np.array_equal(embed(served, files), expected)

    async def run() -> np.ndarray:
        async with AsyncEmbeddingClient(served, MODEL, tls=files) as client:
            return await client.embed("a text", timeout_s=20)

    import asyncio

    assert np.array_equal(asyncio.run(run()), expected)


def test_a_server_that_another_authority_vouches_for_is_not_trusted(served, authority):
    mine = authority.issue_cert("client@example.org")
    for tls in (tls_of(trustme.CA(), mine), Tls()):  # a stranger's, and the public ones
        with pytest.raises(TlsFailed, match="CERTIFICATE_VERIFY_FAILED"):
            embed(served, tls)


def test_a_server_of_another_name_is_not_trusted(served, authority):
    mine = authority.issue_cert("client@example.org")
    with pytest.raises(TlsFailed, match="Hostname"):
        embed(served, tls_of(authority, mine, server_name="other.example.org"))


def test_the_name_of_the_certificate_may_be_given(served, authority):
    mine = authority.issue_cert("client@example.org")
    vector = embed(served, tls_of(authority, mine, server_name="localhost"))
    assert np.array_equal(vector, toy_vector("a text"))


def test_a_client_without_certificate_or_with_a_strangers_is_turned_away(served, authority):
    for client in (None, trustme.CA().issue_cert("client@example.org")):
        with pytest.raises(ModelUnavailable, match="a client's certificate"):
            embed(served, tls_of(authority, client))


def test_plain_text_is_turned_away_with_a_hint(served):
    with pytest.raises(ModelUnavailable, match="does it want TLS"):
        embed(served, None)


def test_embed_corpus_over_mutual_tls(served, authority, tmp_path):
    mine = authority.issue_cert("client@example.org")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pq.write_table(pa.table({"text": ["a text", "another"]}), tmp_path / "texts.parquet")
    run = ["embed-corpus", str(tmp_path / "texts.parquet"), "--url", served, "--model", MODEL]
    tls = [f"--tls-{name}={tmp_path / name}.pem" for name in ("ca", "cert", "key")]
    assert main([*run, "--output", str(tmp_path / "out"), *tls]) == 0
    vectors = pq.read_table(tmp_path / "out")["embedding"].to_pylist()
    assert vectors == [toy_vector(text).tolist() for text in ("a text", "another")]
    assert main([*run, "--output", str(tmp_path / "none"), *tls[:1]]) == 1
