"""`lasttoken serve`: a real Triton of this machine, in the foreground."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from types import FrameType

from lasttoken.commands.command import Command, add_local_arguments, say


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repository", type=Path, help="Triton model repository")
    for name, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=int, default=port, help="0: a free one (default %(default)s)"
        )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default %(default)s)")
    parser.add_argument(
        "--probe-interval", type=float, default=5.0, metavar="SECONDS",
        help="time between two real inferences that show whether the server lives; it is started "
        "anew when two in a row fail, or when it ends. 0: never (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--otlp-endpoint", default=os.environ.get("LASTTOKEN_OTLP_ENDPOINT") or None, metavar="URL",
        help="send Triton's traces there by OTLP over HTTP, such as http://127.0.0.1:4318 "
        "(LASTTOKEN_OTLP_ENDPOINT)",
    )  # fmt: skip
    parser.add_argument(
        "--trace-rate", type=int, default=1, metavar="N",
        help="trace one request of N; one that brings the caller's trace always is "
        "(default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="say where it serves as JSON")
    add_local_arguments(parser)


def _serve(arguments: argparse.Namespace) -> int:
    from lasttoken.local import LocalTriton, SupervisionOptions, Supervisor

    server = LocalTriton(
        arguments.repository,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        host=arguments.host,
        log_path=arguments.log,
        ready_timeout_s=arguments.ready_timeout,
        python=arguments.python,
        cache_folder=arguments.cache,
        otlp_endpoint=arguments.otlp_endpoint,
        trace_rate=arguments.trace_rate,
        announce=say,
    )
    if not arguments.host.startswith("127.") and arguments.host != "::1":
        say(f"{arguments.host} can be reached by others; Triton 24.10 is not meant for that")
    # A service manager stops with SIGTERM; the server must end as cleanly as with Ctrl-C.
    previous = signal.signal(signal.SIGTERM, _stop_requested)
    try:
        with server:
            places = {
                "models": list(server.models()),
                "grpc": server.grpc_url,
                "http": server.http_url,
                "metrics": server.metrics_url,
                "pid": server.pid,
            }
            if arguments.json:
                print(json.dumps(places), flush=True)
            else:
                names = ", ".join(server.models())
                print(f"serving {names} on {server.grpc_url} (gRPC)", flush=True)
                say(f"HTTP {server.http_url}, metrics {server.metrics_url}; Ctrl-C stops")
            if arguments.probe_interval == 0:
                server.wait()
            options = SupervisionOptions(interval_s=arguments.probe_interval)
            Supervisor(server, options, announce=say).run()
    except _StopRequested:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


class _StopRequested(BaseException):
    """SIGTERM; like KeyboardInterrupt not an error, so not an Exception."""


def _stop_requested(_signal_number: int, _frame: FrameType | None) -> None:
    raise _StopRequested


SERVE = Command(
    name="serve",
    summary="run Triton on this machine with a model repository",
    add_arguments=_add_serve_arguments,
    run=_serve,
)
