"""The arguments that say how a running server is reached, and the client options they make."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from lasttoken.errors import InvalidInput
from lasttoken.security import Tls


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; `connection_options` reads them."""
    parser.add_argument(
        "--url",
        default=os.environ.get("LASTTOKEN_URL", "127.0.0.1:8001"),
        help="host:port of Triton's gRPC service, or several separated by commas "
        "(LASTTOKEN_URL; default %(default)s)",
    )
    add_security_arguments(parser)


def add_security_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `security_options` reads."""
    parser.add_argument("--tls", action="store_true", help="encrypt; the other --tls-* imply it")
    for name, text in (
        ("ca", "authorities to trust, PEM"),
        ("cert", "certificate of this client (mTLS), PEM"),
        ("key", "its key, PEM"),
    ):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE",
        help="gRPC metadata of every call; may be repeated. A bearer token comes from "
        "LASTTOKEN_TOKEN, as every process can read a command line",
    )  # fmt: skip


def connection_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `EmbeddingClient`, apart from the model.

    Raises:
        InvalidInput: As `security_options`.
    """
    return {"url": arguments.url, **security_options(arguments)}


def security_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The client's `tls`, `token` and `headers`.

    Raises:
        InvalidInput: A header that is not NAME=VALUE, or a file that is no PEM.
    """
    headers = {}
    for header in arguments.header:
        name, equals, value = header.partition("=")
        if not (name and equals):
            raise InvalidInput(f"--header is {header!r}; it must be NAME=VALUE")
        headers[name] = value
    files = (arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
    tls = None
    if arguments.tls or any(files):
        tls = Tls(
            root_certificates=arguments.tls_ca,
            certificate_chain=arguments.tls_cert,
            private_key=arguments.tls_key,
        )
    return {
        "tls": tls,
        "token": os.environ.get("LASTTOKEN_TOKEN") or None,
        "headers": headers,
    }
