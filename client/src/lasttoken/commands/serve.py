"""`lasttoken serve`: a real Triton of this machine, in the foreground.

The first SIGTERM or Ctrl-C lets requests in flight finish, the second one ends the server at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from lasttoken.commands.command import EXIT_INTERRUPTED, Command, add_local_arguments, say
from lasttoken.commands.stop_signals import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from lasttoken.local import LocalTriton


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
        "--stop-timeout", type=float, default=30.0, metavar="SECONDS",
        help="time that requests in flight have to finish after SIGTERM or Ctrl-C; a second one "
        "ends the server at once (default %(default)s)",
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
    from lasttoken.local import LocalTriton

    server = LocalTriton(
        arguments.repository,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        host=arguments.host,
        log_path=arguments.log,
        ready_timeout_s=arguments.ready_timeout,
        stop_timeout_s=arguments.stop_timeout,
        python=arguments.python,
        cache_folder=arguments.cache,
        otlp_endpoint=arguments.otlp_endpoint,
        trace_rate=arguments.trace_rate,
        announce=say,
    )
    if not arguments.host.startswith("127.") and arguments.host != "::1":
        say(f"{arguments.host} can be reached by others; Triton 24.10 is not meant for that")
    ending = _Ending(server, arguments.stop_timeout)
    previous = signal.signal(signal.SIGINT, ending.on_signal)
    try:
        # A service manager stops with SIGTERM; the server must end as cleanly as with Ctrl-C.
        with sigterm_as_ctrl_c():
            _serve_until_stopped(server, ending, arguments)
    finally:
        signal.signal(signal.SIGINT, previous)
    return ending.exit_code


def _serve_until_stopped(
    server: LocalTriton, ending: _Ending, arguments: argparse.Namespace
) -> None:
    from lasttoken.local import SupervisionOptions, Supervisor

    interval_s: float = arguments.probe_interval
    options = SupervisionOptions(interval_s=interval_s) if interval_s else None
    try:
        server.start()
        _tell_where(server, as_json=arguments.json)
        if options is None:
            server.wait()
        else:
            Supervisor(server, options, announce=say).run()
    except _StopRequested:
        pass
    finally:
        ending.begun = True
        server.stop()


def _tell_where(server: LocalTriton, *, as_json: bool) -> None:
    places = {
        "models": list(server.models()),
        "grpc": server.grpc_url,
        "http": server.http_url,
        "metrics": server.metrics_url,
        "pid": server.pid,
    }
    if as_json:
        print(json.dumps(places), flush=True)
    else:
        print(f"serving {', '.join(server.models())} on {server.grpc_url} (gRPC)", flush=True)
        say(f"HTTP {server.http_url}, metrics {server.metrics_url}; Ctrl-C stops")


class _StopRequested(BaseException):
    """A signal to end; like KeyboardInterrupt not an error, so not an Exception."""


class _Ending:
    """What signals do: the first leaves the work, which stops the server; the second kills it.

    Attributes:
        begun: The work has been left, and nothing is raised any more: stopping is not interrupted.
        exit_code: 130 after Ctrl-C; 0 after SIGTERM, but 143 where a second one killed the server.
    """

    def __init__(self, server: LocalTriton, stop_timeout_s: float) -> None:
        self.begun = False
        self.exit_code = 0
        self._server = server
        self._stop_timeout_s = stop_timeout_s
        self._signals = 0
        self._ctrl_c_is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._ctrl_c_is_ignored:  # a shell's job in its background
            return
        self._signals += 1
        if self._signals == 1:
            self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else 0
            self._say(
                f"stopping; requests in flight have {self._stop_timeout_s:g} s to finish, and a "
                "second signal ends the server at once"
            )
        else:
            self._server.kill()
            self.exit_code = 128 + number
            self._say("ending the server at once")
        if not self.begun:
            self.begun = True
            raise _StopRequested

    @staticmethod
    def _say(words: str) -> None:
        with suppress(OSError, RuntimeError):  # stderr is closed, or was being written to
            say(words)


SERVE = Command(
    name="serve",
    summary="run Triton on this machine with a model repository",
    add_arguments=_add_serve_arguments,
    run=_serve,
)
