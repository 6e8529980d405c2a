"""`lasttoken gateway`: OpenAI's interface, and others', in front of a Triton server."""

from __future__ import annotations

import argparse
import ipaddress
import os
from pathlib import Path
from typing import Any

from lasttoken.commands.command import Command, say
from lasttoken.errors import InvalidInput
from lasttoken.security import Tls

_PREFIX = "LASTTOKEN_GATEWAY_"
KEYS_VARIABLE = _PREFIX + "API_KEYS"
"""Keys come from here or from a file: what stands on a command line, every process can read."""


def _add_option(
    parser: argparse.ArgumentParser, name: str, text: str, default: Any = None, **kwargs: Any
) -> None:
    """An option that is also an environment variable."""
    variable = _PREFIX + name.upper().replace("-", "_")
    shown = f"{variable}; default %(default)s" if default is not None else variable
    # argparse gives a default that is a string to `type`, as it does with arguments.
    default = os.environ.get(variable, default)
    parser.add_argument(f"--{name}", default=default, help=f"{text} ({shown})", **kwargs)


def _add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default=os.environ.get(
            _PREFIX + "URL", os.environ.get("LASTTOKEN_URL", "127.0.0.1:8001")
        ),
        help="host:port of Triton's gRPC service, or several separated by commas "
        f"({_PREFIX}URL, LASTTOKEN_URL; default %(default)s)",
    )  # fmt: skip
    _add_option(parser, "host", "address to bind", "127.0.0.1")
    _add_option(parser, "port", "port to bind, 0 for a free one", "8080", type=int)
    _add_option(
        parser, "default-model",
        "model of requests that name none; without it the only one that is served, and with "
        "several such requests are refused",
    )  # fmt: skip
    parser.add_argument(
        "--alias",
        action="append",
        metavar="NAME=MODEL",
        help=f"another name of a model; may be repeated ({_PREFIX}ALIASES, separated by commas)",
    )
    _add_option(
        parser, "key-file", "API keys, one a line: NAME KEY [requests=N] [texts=N] [tokens=N], N "
        f"per minute; read again when it changes. Keys may also stand in {KEYS_VARIABLE}",
        type=Path, metavar="FILE",
    )  # fmt: skip
    for name, text, default in (
        ("timeout", "time for one request", "60"),
        (
            "body-timeout",
            "time for a request's head, for its body, and for each piece of an answer to be read",
            "30",
        ),
        ("drain-delay", "time between SIGTERM and the closing of the port", "0"),
        ("drain-timeout", "time for requests in flight after that", "30"),
    ):
        _add_option(parser, name, text, default, type=float, metavar="SECONDS")
    for name, text, default in (
        ("max-body-bytes", "largest request", str(16 * 1024 * 1024)),
        ("max-texts", "most texts of a request", "2048"),
        ("max-in-flight", "most requests that are worked on at a time", "512"),
    ):
        _add_option(parser, name, text, default, type=int, metavar="N")
    for name, text in (
        ("tls-certificate", "certificate and its chain"),
        ("tls-key", "its key"),
        ("tls-client-ca", "authorities that callers' certificates must come from"),
    ):
        _add_option(parser, name, text, type=Path, metavar="FILE.pem")
    for name, text in (
        ("upstream-tls-ca", "encrypt the connection to Triton; authorities to trust"),
        ("upstream-tls-cert", "the gateway's own certificate for Triton (mTLS)"),
        ("upstream-tls-key", "its key"),
    ):
        _add_option(parser, name, text, type=Path, metavar="FILE.pem")
    _add_option(
        parser, "otlp-endpoint", "send traces there by OTLP over HTTP, such as http://collector:4318",
        metavar="URL",
    )  # fmt: skip
    _add_option(parser, "log-level", "debug, info, warning or error", "info")


def _aliases(given: list[str] | None) -> dict[str, str]:
    pairs = os.environ.get(_PREFIX + "ALIASES", "").split(",") if given is None else given
    aliases = {}
    for pair in filter(None, (pair.strip() for pair in pairs)):
        name, equals, model = pair.partition("=")
        if not equals:
            raise InvalidInput(f"alias is {pair!r}; write NAME=MODEL")
        aliases[name.strip()] = model.strip()
    return aliases


def _upstream_tls(arguments: argparse.Namespace) -> Tls | None:
    names = ("upstream_tls_ca", "upstream_tls_cert", "upstream_tls_key")
    ca, certificate, key = (getattr(arguments, name) for name in names)
    if ca is None and certificate is None and key is None:
        return None
    return Tls(root_certificates=ca, certificate_chain=certificate, private_key=key)


def _gateway(arguments: argparse.Namespace) -> int:
    try:
        from lasttoken.gateway import GatewaySettings
        from lasttoken.gateway.gateway_state import Gateway
        from lasttoken.gateway.json_log import set_up_logging
        from lasttoken.gateway.serve import ListenSettings, bind, serve
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"the gateway needs {error.name!r}: pip install 'lasttoken[gateway]'"
        ) from None
    if arguments.log_level not in ("debug", "info", "warning", "error"):
        raise InvalidInput(f"--log-level is {arguments.log_level!r}; see --help")
    gateway = Gateway(
        GatewaySettings(
            url=arguments.url,
            tls=_upstream_tls(arguments),
            token=os.environ.get("LASTTOKEN_TOKEN") or None,
            default_model=arguments.default_model,
            aliases=_aliases(arguments.alias),
            key_file=arguments.key_file,
            keys=os.environ.get(KEYS_VARIABLE),
            timeout_s=arguments.timeout,
            body_timeout_s=arguments.body_timeout,
            max_body_bytes=arguments.max_body_bytes,
            max_texts=arguments.max_texts,
            max_in_flight=arguments.max_in_flight,
            drain_delay_s=arguments.drain_delay,
            drain_timeout_s=arguments.drain_timeout,
            otlp_endpoint=arguments.otlp_endpoint or None,
        )
    )
    listen = ListenSettings(
        host=arguments.host,
        port=arguments.port,
        tls_certificate=arguments.tls_certificate,
        tls_key=arguments.tls_key,
        tls_client_ca=arguments.tls_client_ca,
    )
    with bind(listen) as taken:
        host, port = taken.getsockname()[:2]
        if gateway.access.open_to_all and not ipaddress.ip_address(host).is_loopback:
            say(f"{host} can be reached by others, and nobody needs a key; see --key-file")
        set_up_logging(arguments.log_level)
        scheme = "https" if listen.tls_certificate else "http"
        shown = f"[{host}]" if ":" in host else host
        print(f"gateway to {arguments.url} on {scheme}://{shown}:{port}", flush=True)
        serve(gateway, listen, taken)
    return 0


GATEWAY = Command(
    name="gateway",
    summary="offer OpenAI's embeddings interface, and others', in front of a running server",
    add_arguments=_add_gateway_arguments,
    run=_gateway,
)
