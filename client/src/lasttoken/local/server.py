"""LocalTriton: a Triton Inference Server on this machine for as long as a `with` block."""

from __future__ import annotations

import ipaddress
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lasttoken.errors import InvalidInput, RepositoryInvalid, ServerStartFailed, ServerStopped
from lasttoken.interrupts import interrupts_held
from lasttoken.local.cache_folder import default_cache_folder
from lasttoken.local.check_repository import check_model, models_with_cards
from lasttoken.local.ports import address, check_ports, free_ports
from lasttoken.local.process import ServerProcess
from lasttoken.local.program import ServerProgram, find_program
from lasttoken.local.readiness import wait_until_ready
from lasttoken.local.repository import RepositoryModel, check_backends, read_repository
from lasttoken.local.server_arguments import CLOSED_APIS, Ports, server_arguments
from lasttoken.local.server_environment import REQUIREMENTS
from lasttoken.local.server_log import explain
from lasttoken.local.trace_arguments import trace_arguments

if TYPE_CHECKING:
    from typing_extensions import Self

_START_ATTEMPTS = 3
_LONGEST_S = 2**31 - 1
"""Triton takes times as signed 32-bit numbers."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux


class LocalTriton:
    """A real Triton Inference Server on this machine.

    The `tritonserver` on the PATH is used when there is one, with its own Python environment.
    Otherwise Triton 24.10 is fetched from the package index once and kept in the cache folder,
    with a small Python environment of its own beside it. The server ends with this process, also
    when this process is killed.

    ::

        with LocalTriton(Path("build/repository")) as server:
            client = EmbeddingClient(server.grpc_url, server.models()[0])
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        grpc_port: int = 0,
        http_port: int | None = 0,
        metrics_port: int | None = 0,
        host: str = "127.0.0.1",
        log_path: str | Path | None = None,
        ready_timeout_s: float = 120.0,
        stop_timeout_s: float = 30.0,
        python: str | Path | None = None,
        cache_folder: str | Path | None = None,
        requirements: str | Path | None = None,
        library_folders: Sequence[str | Path] = (),
        verify: bool = True,
        closed_apis: Sequence[str] = CLOSED_APIS,
        otlp_endpoint: str | None = None,
        trace_rate: int = 1,
        extra_args: Sequence[str] = (),
        announce: Callable[[str], None] | None = None,
    ) -> None:
        """Describe a server; nothing runs and nothing is fetched before `start`.

        Args:
            repository: Triton model repository.
            grpc_port: Port of the gRPC service; 0 takes a free one.
            http_port: Port of the HTTP service; 0 takes a free one, None switches it off.
            metrics_port: Port of the Prometheus metrics; 0 takes a free one, None switches it off.
            host: IP address to bind.
            log_path: File that the server's output is appended to; None keeps it in a temporary
                file until the server has stopped.
            ready_timeout_s: How long loading and the first inference may take, in seconds.
            stop_timeout_s: How long requests in flight may take to finish at the end, in seconds.
            python: Interpreter for the Python models; None chooses one.
            cache_folder: Where Triton and its environment are kept; None for `~/.cache/lasttoken`.
            requirements: Hashed requirements of the Python models' environment; None for the ones
                that came with this package.
            library_folders: Shared libraries that the models need beside Triton's own, which are
                found first: CUDA's, for one, where they came in packages of another environment.
            verify: Compare the files of every model that has a card with its digests first.
            closed_apis: Protocols of Triton's that nobody may call; for other tools that need one
                of them, such as perf_analyzer with shared memory, leave it out.
            otlp_endpoint: Where Triton sends its spans, by OTLP over HTTP, such as
                `http://127.0.0.1:4318`; None: no traces.
            trace_rate: One request of so many gets a trace; one that brings the caller's trace
                always does.
            extra_args: More arguments for `tritonserver`; they come last and so win.
            announce: Told in a few words what takes long, when something does; None for silence.

        Raises:
            InvalidInput: `host` is not an IP address, a port or a time is out of range, or two
                ports are the same.
        """
        named: dict[int, str] = {}
        for name, port in (("grpc", grpc_port), ("http", http_port), ("metrics", metrics_port)):
            if port is not None and not 0 <= port <= 65535:
                raise InvalidInput(f"{name}_port is {port!r}; it must be between 0 and 65535")
            if port and (other := named.setdefault(port, name)) != name:
                raise InvalidInput(
                    f"{other}_port and {name}_port are both {port}; choose different ones, or 0 "
                    "for a free one"
                )
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise InvalidInput(
                f"host is {host!r}; it must be an IP address such as '127.0.0.1'"
            ) from error
        for name, seconds in (("ready", ready_timeout_s), ("stop", stop_timeout_s)):
            if not 0 < seconds <= _LONGEST_S:
                raise InvalidInput(
                    f"{name}_timeout_s is {seconds!r}; it must be above 0, and at most {_LONGEST_S}"
                )
        self._repository = Path(repository).absolute()
        self._wanted_ports = Ports(grpc=grpc_port, http=http_port, metrics=metrics_port)
        self._host = host
        self._wanted_log_path = None if log_path is None else Path(log_path).absolute()
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._python = python
        self._cache_folder = (
            default_cache_folder() if cache_folder is None else Path(cache_folder).absolute()
        )
        self._requirements = REQUIREMENTS if requirements is None else Path(requirements)
        self._library_folders = tuple(map(str, library_folders))
        self._verify = verify
        self._closed_apis = tuple(closed_apis)
        self._trace_arguments = trace_arguments(otlp_endpoint, trace_rate)
        self._extra_args = tuple(extra_args)
        self._announce = announce or _say_nothing
        self._server_id = f"lasttoken_{os.getpid()}_{secrets.token_hex(4)}"
        self._log_folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: ServerProcess | None = None
        self._ports: Ports | None = None
        self._models: tuple[RepositoryModel, ...] | None = None

    def start(self) -> None:
        """Fetch what is missing, start the server and wait until it has answered a real request.

        Raises:
            UnsupportedPlatform: No Triton for this system, or no interpreter that can host models.
            InstallationFailed: Triton or its environment could not be fetched.
            RepositoryInvalid: The folder is not a model repository, or a model in it is not as it
                was exported, or needs a backend that the fetched Triton has not.
            ServerStartFailed: A port that was named cannot be bound; or the server ended or did not
                become ready, with the end of its log.
        """
        if self._process is not None:
            raise ServerStartFailed(f"this server runs already, as process {self.pid}")
        models = read_repository(self._repository)
        check_ports(self._host, self._named_ports())
        if self._verify:
            self._check_digests()
        program = find_program(self._cache_folder, self._python, self._requirements, self._announce)
        if program.backends is not None:
            check_backends(models, program.backends)
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._ports = self._choose_ports()
            try:
                with interrupts_held():  # else nobody would know of the process that has just begun
                    self._process = ServerProcess(
                        [program.path, *self._arguments(program)],
                        environment=program.environment,
                        library_path=program.library_path_with(self._library_folders),
                        log_path=self._open_log(),
                    )
                wait_until_ready(
                    self._process,
                    self.grpc_url,
                    models,
                    server_id=self._server_id,
                    timeout_s=self._ready_timeout_s,
                )
            except ServerStartFailed as error:
                self.stop()
                # Somebody took a free port between our look and the server's bind.
                port_taken = "already in use" in str(error) and self._ports_are_free_choice()
                if not port_taken or attempt == _START_ATTEMPTS:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                self._models = models
                return

    def restart(self, *, stop_timeout_s: float | None = None) -> None:
        """Stop the server and start it anew on the same ports.

        Args:
            stop_timeout_s: How long stopping may take, in seconds; None for the server's own. One
                that does not answer need not be waited for.

        Raises:
            ServerStartFailed: As of `start`.
        """
        ports = self._running_ports()
        self.stop(timeout_s=stop_timeout_s)
        self._wanted_ports = ports
        self.start()

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Stop the server: no new work, work in flight is answered, then it ends.

        A second Ctrl-C, or any exception that ends the waiting, ends the server at once.

        Args:
            timeout_s: How long that may take, in seconds; None for the server's own.
        """
        process = self._process
        if process is None:
            return
        try:
            process.stop(self._stop_timeout_s + 2.0 if timeout_s is None else timeout_s)
        finally:
            with interrupts_held():
                self._process = None
                self._models = None
                self._clear_away()

    def kill(self) -> None:
        """End the server's processes at once, whatever they do; `stop` still has to be called.

        May be called while another call waits in `stop`, also by the handler of a signal.
        """
        process = self._process
        if process is not None:
            process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        """`host:port` of the gRPC service."""
        return address(self._host, self._running_ports().grpc)

    @property
    def http_url(self) -> str | None:
        """`host:port` of the HTTP service, or None when it is off."""
        port = self._running_ports().http
        return None if port is None else address(self._host, port)

    @property
    def metrics_url(self) -> str | None:
        """`http://host:port/metrics`, or None when metrics are off."""
        port = self._running_ports().metrics
        return None if port is None else f"http://{address(self._host, port)}/metrics"

    @property
    def pid(self) -> int:
        """Process id of `tritonserver`."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """File with the server's output."""
        return self._running().log_path

    def models(self) -> tuple[str, ...]:
        """Names of the ensembles that take texts, which are what clients call.

        While it runs those that were there when it was started: the repository may be written to,
        and Triton loads nothing of that.
        """
        return tuple(model.name for model in self._known_models() if model.takes_text)

    @property
    def computes_on_cpu(self) -> bool:
        """Whether none of the repository's models computes on a GPU."""
        return not any(model.on_gpu for model in self._known_models())

    def processor_s(self) -> float:
        """Return the processor time that the server and its models have used, in seconds."""
        return self._running().processor_s()

    def log(self) -> str:
        """Return all that the server has written to its log."""
        return self._running().log()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait while the server runs.

        Args:
            timeout_s: Return after that many seconds; None waits for ever.

        Raises:
            ServerStopped: The server has ended by itself; with the end of its log.
        """
        process = self._running()
        if process.wait(timeout_s):
            raise ServerStopped(
                f"tritonserver ended with exit code {process.exit_code}; from its log:\n"
                f"{explain(process.log())}"
            )

    def _known_models(self) -> tuple[RepositoryModel, ...]:
        return read_repository(self._repository) if self._models is None else self._models

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServerStopped("this server is not running; call start() or use it in a `with`")
        return self._process

    def _running_ports(self) -> Ports:
        self._running()
        assert self._ports is not None
        return self._ports

    def _check_digests(self) -> None:
        cards = models_with_cards(self._repository)
        wrong = [line for model in cards for line in check_model(self._repository, model)]
        if wrong:
            raise RepositoryInvalid(
                f"{str(self._repository)!r} is not as it was exported: {'; '.join(wrong)}; export "
                "the model again, or copy it anew"
            )

    def _choose_ports(self) -> Ports:
        wanted = self._wanted_ports
        free = iter(free_ports(self._host, 3))
        return Ports(
            grpc=wanted.grpc or next(free),
            http=next(free) if wanted.http == 0 else wanted.http,
            metrics=next(free) if wanted.metrics == 0 else wanted.metrics,
        )

    def _named_ports(self) -> dict[str, int]:
        """The ports that are not left to the system, by the options that name them."""
        ports = self._wanted_ports
        wanted = (("grpc", ports.grpc), ("http", ports.http), ("metrics", ports.metrics))
        return {f"{name}_port (--{name}-port)": port for name, port in wanted if port}

    def _ports_are_free_choice(self) -> bool:
        return 0 in (self._wanted_ports.grpc, self._wanted_ports.http, self._wanted_ports.metrics)

    def _open_log(self) -> Path:
        if self._wanted_log_path is not None:
            self._wanted_log_path.parent.mkdir(parents=True, exist_ok=True)
            return self._wanted_log_path
        self._log_folder = tempfile.TemporaryDirectory(prefix="lasttoken-triton-")
        return Path(self._log_folder.name) / "tritonserver.log"

    def _clear_away(self) -> None:
        # A server that was killed leaves its shared memory; the name is this object's alone.
        for leftover in _SHARED_MEMORY.glob(f"{self._server_id}_*"):
            leftover.unlink(missing_ok=True)
        if self._log_folder is not None:
            self._log_folder.cleanup()
            self._log_folder = None

    def _arguments(self, program: ServerProgram) -> list[str]:
        assert self._ports is not None
        own = server_arguments(
            self._host,
            self._ports,
            server_id=self._server_id,
            exit_timeout_s=self._stop_timeout_s,
            closed_apis=self._closed_apis,
        )
        repository = f"--model-repository={self._repository}"
        return [repository, *program.arguments, *own, *self._trace_arguments, *self._extra_args]


def _say_nothing(words: str) -> None:
    """Take an announcement that nobody wants."""
