"""An encrypted connection to Triton: a TLS tunnel in front of a real one."""

from __future__ import annotations

import asyncio
import ssl
import threading

import httpx
import pytest

from conftest import MODEL
from gateway.gateway_process import GatewayProcess
from gateway.test_lifecycle import certificate

pytestmark = pytest.mark.server


class TlsTunnel:
    """Takes TLS connections and passes their bytes on to a plain port."""

    def __init__(self, target: str, key, file):
        self._host, port = target.split(":")
        self._port = int(port)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(file, key)
        self._context.set_alpn_protocols(["h2"])
        self._loop = asyncio.new_event_loop()
        self.url = ""

    def __enter__(self):
        ready = threading.Event()

        async def start():
            server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._context)
            self.url = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            ready.set()

        def run():
            self._loop.create_task(start())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _pass_on(self, reader, writer):
        onward_reader, onward_writer = await asyncio.open_connection(self._host, self._port)

        async def pump(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, onward_writer), pump(onward_reader, writer))


def test_the_connection_to_triton_is_encrypted_and_checked(smollm2_server, tmp_path):
    key, file = certificate(tmp_path, "triton")
    _, other = certificate(tmp_path, "other")
    payload = {"model": MODEL, "input": ["one", "two"]}
    with TlsTunnel(smollm2_server.grpc_url, key, file) as tunnel:
        options = ("--upstream-tls-ca", str(file))
        with GatewayProcess(tunnel.url, tmp_path / "log", *options) as gateway:
            answer = httpx.post(f"{gateway.url}/v1/embeddings", json=payload, timeout=60)
            assert answer.status_code == 200, gateway.log.read_text()
        options = ("--upstream-tls-ca", str(other), "--timeout", "2")
        with GatewayProcess(tunnel.url, tmp_path / "log2", *options) as gateway:
            answer = httpx.post(f"{gateway.url}/v1/embeddings", json=payload, timeout=60)
            assert answer.status_code == 502, answer.text
            assert gateway.event_of(answer.headers["x-request-id"])["cause"].startswith("TlsFailed")
