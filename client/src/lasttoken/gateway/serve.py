"""Serves the application with uvicorn, and stops it without losing a request."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from lasttoken.errors import InvalidInput
from lasttoken.gateway.app import gateway_app
from lasttoken.gateway.connection_limits import with_limits
from lasttoken.gateway.gateway_state import Gateway
from lasttoken.gateway.json_log import log_event


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Where and how connections are taken.

    Attributes:
        host: Address to bind; this machine only by default.
        port: 0: a free one.
        tls_certificate: PEM file of the certificate and its chain; None: no TLS.
        tls_key: PEM file of its key.
        tls_client_ca: PEM file of the authorities that callers' certificates must come from; None:
            callers need none.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidInput("a TLS certificate and its key go together; give both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise InvalidInput("callers can show certificates over TLS only; give a certificate")
        for path in (self.tls_certificate, self.tls_key, self.tls_client_ca):
            if path is not None and not path.is_file():
                raise InvalidInput(f"{str(path)!r} is not a file")


class _Server(uvicorn.Server):
    """uvicorn, told to stop in two steps: first not ready, then closed."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        delay_s = self._gateway.settings.drain_delay_s
        if self._gateway.draining or sig != signal.SIGTERM or not delay_s:
            self._gateway.draining = True
            super().handle_exit(sig, frame)
            return
        self._gateway.draining = True
        log_event("draining", delay_s=delay_s, in_flight=self._gateway.in_flight)
        asyncio.get_running_loop().call_later(delay_s, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves the application's end out, and logs how it is cut off
            await self.lifespan.shutdown()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and self.started:
            host, port = sockets[0].getsockname()[:2]
            log_event(
                "serving",
                host=host,
                port=port,
                tls=bool(self.config.is_ssl),
                upstream=self._gateway.settings.url,
                keys_required=not self._gateway.access.open_to_all,
            )


def bind(listen: ListenSettings) -> socket.socket:
    """Take the port.

    Raises:
        InvalidInput: It cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        raise InvalidInput(f"{listen.host}:{listen.port} cannot be bound: {error}") from None
    taken.set_inheritable(True)
    return taken


def serve(gateway: Gateway, listen: ListenSettings, taken: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first.

    Args:
        gateway: What is served.
        listen: TLS.
        taken: The port, from `bind`.

    Raises:
        InvalidInput: The TLS files are not valid.
    """
    config = uvicorn.Config(
        gateway_app(gateway),
        log_config=None,
        access_log=False,
        lifespan="on",
        http=with_limits(gateway.settings.body_timeout_s),
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(gateway.settings.drain_timeout_s)),
        ssl_certfile=listen.tls_certificate,
        ssl_keyfile=listen.tls_key,
        ssl_ca_certs=str(listen.tls_client_ca) if listen.tls_client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if listen.tls_client_ca else ssl.CERT_NONE,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(f"the TLS files are not valid: {error}") from None
    # uvicorn raises the signal again once it has stopped, for the handler that was there before it;
    # a service that was asked to end and did has not failed.
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        _Server(config, gateway).run(sockets=[taken])
    finally:
        signal.signal(signal.SIGTERM, previous)
    log_event("stopped")
