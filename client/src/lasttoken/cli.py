"""The command `lasttoken`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted with Ctrl-C. This is the only module that reads the environment: LASTTOKEN_URL and
LASTTOKEN_CACHE are defaults of `--url` and `--cache`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType

import numpy as np

from lasttoken.catalogue_listing import catalogue_lines
from lasttoken.client import EmbeddingClient
from lasttoken.demo import add_demo_arguments, run_demo
from lasttoken.embeddings import Embeddings
from lasttoken.errors import InvalidInput, LasttokenError, ModelNotFound
from lasttoken.options import RetryPolicy

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_RETRY = RetryPolicy(max_attempts=6)  # about a second: somebody waits at the terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand.

    Attributes:
        name: What the user types.
        summary: One line for the help.
        add_arguments: Puts its arguments on its parser.
        run: Does the work and returns the exit code.
    """

    name: str
    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def say(words: str) -> None:
    """Tell the user something that is not a result."""
    print(f"lasttoken: {words}", file=sys.stderr, flush=True)


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that call a running server."""
    parser.add_argument(
        "--url",
        default=os.environ.get("LASTTOKEN_URL", "127.0.0.1:8001"),
        help="host:port of Triton's gRPC service (LASTTOKEN_URL; default %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="default %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="results as JSON, one object a line")


def add_local_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that start a server on this machine."""
    parser.add_argument(
        "--cache",
        type=Path,
        default=os.environ.get("LASTTOKEN_CACHE"),
        metavar="FOLDER",
        help="where Triton and its environment are kept (LASTTOKEN_CACHE; ~/.cache/lasttoken)",
    )
    parser.add_argument("--python", help="Python 3.11 or 3.12 that runs the server's models")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append the server's output here")
    parser.add_argument(
        "--ready-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="time for loading and the first inference (default %(default)s)",
    )


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repository", type=Path, help="Triton model repository")
    for name, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=int, default=port, help="0: a free one (default %(default)s)"
        )
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default %(default)s)")
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
        python=arguments.python,
        cache_folder=arguments.cache,
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
            server.wait()
    except _StopRequested:
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


class _StopRequested(BaseException):
    """SIGTERM; like KeyboardInterrupt not an error, so not an Exception."""


def _stop_requested(_signal_number: int, _frame: FrameType | None) -> None:
    raise _StopRequested


def _add_embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="default: one text a line of stdin"
    )
    parser.add_argument("--model", help="Triton's name of the ensemble (default: the only one)")
    parser.add_argument("--prompt-name", help="one of the model's prompts, such as query")
    parser.add_argument("--instruction", help="what the texts are searched for")
    parser.add_argument("--priority", choices=("interactive", "bulk"), default="interactive")
    parser.add_argument("--output", type=Path, metavar="FILE.npy", help="write float32 [n, D] here")
    add_server_arguments(parser)


def _embed(arguments: argparse.Namespace) -> int:
    if arguments.output is not None and (arguments.json or arguments.output.suffix != ".npy"):
        raise InvalidInput(
            f"--output is {str(arguments.output)!r}; it takes a name ending in .npy and does not "
            "go with --json"
        )
    if not arguments.texts and sys.stdin.isatty():
        raise InvalidInput("no text: give some as arguments, or one a line on stdin")
    texts = arguments.texts or list(_stdin_lines())
    model = arguments.model or _only_model(arguments.url, arguments.timeout)
    with EmbeddingClient(arguments.url, model, retry=_RETRY) as client:
        embeddings = client.embed_full(
            texts,
            prompt_name=arguments.prompt_name,
            instruction=arguments.instruction,
            timeout_s=arguments.timeout,
            priority=arguments.priority,
        )
    if cut := int(embeddings.truncated.sum()):
        say(f"{cut} of {len(texts)} texts were longer than the model's maximum and were cut")
    if arguments.output is not None:
        np.save(arguments.output, embeddings.vectors)
        say(f"wrote {embeddings.vectors.shape} float32 to {arguments.output}")
    else:
        _print_all(_embedding_lines(texts, embeddings, as_json=arguments.json))
    return 0


def _stdin_lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"line {number} of stdin is not UTF-8: {error}") from error


def _embedding_lines(
    texts: Sequence[str], embeddings: Embeddings, *, as_json: bool
) -> Iterator[str]:
    for text, vector, tokens, cut in zip(
        texts,
        embeddings.vectors,
        embeddings.token_counts.tolist(),
        embeddings.truncated.tolist(),
        strict=True,
    ):
        numbers = [str(number) for number in vector]  # the shortest that gives the same float32
        if as_json:
            row = {"text": text, "token_count": tokens, "truncated": cut}
            yield json.dumps({**row, "embedding": [float(number) for number in numbers]})
        else:
            yield " ".join(numbers)


def _only_model(url: str, timeout_s: float) -> str:
    with EmbeddingClient(url, retry=_RETRY) as client:
        names = [model.name for model in client.list_models(timeout_s=timeout_s) if model.ready]
    if len(names) == 1:
        return names[0]
    raise ModelNotFound(
        f"{url} serves {', '.join(names) or 'no text-embedding model'}; name one with --model"
    )


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_arguments(parser)
    parser.add_argument(
        "--catalogue", action="store_true",
        help="list what lasttoken-export knows to export instead; asks no server",
    )  # fmt: skip


def _models(arguments: argparse.Namespace) -> int:
    if arguments.catalogue:
        _print_all(catalogue_lines(as_json=arguments.json))
        return 0
    with EmbeddingClient(arguments.url) as client:
        models = client.list_models(timeout_s=arguments.timeout)
    rows = [
        {
            "name": m.name,
            "version": m.version,
            "dimensions": m.dimensions,
            "ready": m.ready,
            "card": m.card,
        }
        for m in models
    ]
    if arguments.json:
        _print_all(json.dumps(row) for row in rows)
        return 0
    width = max([4, *(len(model.name) for model in models)])
    heading = f"{'NAME':{width}}  VERSION  DIMENSIONS  READY  PRECISION  REVISION      LICENCE"
    _print_all([heading] if models else [])
    for m in models:
        card = m.card or {}
        licence = (card.get("licence") or {}).get("id", "-")
        revision = str(card.get("revision") or "-").removeprefix("sha256:")[:12]
        ready = "yes" if m.ready else "no"
        print(
            f"{m.name:{width}}  {m.version:7}  {m.dimensions or '-':>10}  {ready:5}  "
            f"{card.get('precision', '-'):9}  {revision:12}  {licence}"
        )
    return 0


def _add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    add_demo_arguments(parser)
    add_local_arguments(parser)


def _demo(arguments: argparse.Namespace) -> int:
    all_found = run_demo(
        model=arguments.model,
        precision=arguments.precision,
        cache_folder=Path(arguments.cache) if arguments.cache else None,
        python=arguments.python,
        show=print,
        say=say,
    )
    return 0 if all_found else EXIT_FAILED


def _print_all(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


COMMANDS = (
    Command(
        name="serve",
        summary="run Triton on this machine with a model repository",
        add_arguments=_add_serve_arguments,
        run=_serve,
    ),
    Command(
        name="embed",
        summary="embed texts with a running server",
        add_arguments=_add_embed_arguments,
        run=_embed,
    ),
    Command(
        name="models",
        summary="list the text-embedding models of a running server, or of the catalogue",
        add_arguments=_add_models_arguments,
        run=_models,
    ),
    Command(
        name="demo",
        summary="export the demonstration model, serve it and embed a dozen sentences",
        add_arguments=_add_demo_arguments,
        run=_demo,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; None takes the process's own.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(
        prog="lasttoken", description="Text embeddings from NVIDIA Triton.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=metadata.version("lasttoken"))
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except InvalidInput as error:
        say(str(error))
        return EXIT_USAGE
    except LasttokenError as error:
        say(str(error))
        return EXIT_FAILED
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - Python flushes it at exit
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
