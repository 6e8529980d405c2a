"""The server that is measured: one that runs already, a repository, or a model exported for it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken import EmbeddingClient
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.errors import UnknownWorkload
from lasttoken_perf.server_figures import check_metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A running server.

    Attributes:
        url: ``host:port`` of the gRPC service.
        metrics_url: ``http://host:port/metrics``, or None where it is not known.
        triton_name: The ensemble.
        dimensions: Length of its vectors.
        description: A result's ``model``.
        pid: Process of a server that we started; None for another's.
        repository: Its repository; None for another's server.
    """

    url: str
    metrics_url: str | None
    triton_name: str
    dimensions: int
    description: dict[str, Any]
    pid: int | None
    repository: Path | None

    @property
    def precision(self) -> str:
        """Precision of the weights, as the card says."""
        return str(self.description.get("precision", "unknown"))


def add_serving_arguments(
    parser: argparse.ArgumentParser, *, default_model: str = "smollm2-135m"
) -> None:
    """Add the arguments that say what is measured.

    Args:
        parser: Gets them.
        default_model: What is exported and served where they say nothing.
    """
    parser.set_defaults(default_model=default_model)
    parser.add_argument(
        "--model", metavar="NAME",
        help="catalogue name: exported and served by a Triton on this machine "
        f"({default_model}); beside --repository or --url: what is to be served there",
    )  # fmt: skip
    parser.add_argument("--precision", help="of that export (fp32); beside them as --model")
    parser.add_argument(
        "--repository", type=Path, metavar="DIR", help="serve this repository instead"
    )
    parser.add_argument(
        "--url", metavar="HOST:PORT", help="measure this running server instead (gRPC)"
    )
    parser.add_argument(
        "--metrics-url", metavar="URL", help="of that server, such as http://HOST:8002/metrics"
    )
    parser.add_argument("--triton-name", metavar="NAME", help="ensemble, where there are several")


@contextmanager
def open_serving(
    options: argparse.Namespace, *, cache_folder: Path | None, say: Callable[[str], None]
) -> Iterator[Serving]:
    """Have the server that the arguments of `add_serving_arguments` ask for.

    Args:
        options: The arguments.
        cache_folder: Where Triton and weights are kept; None for the default.
        say: Told what is being done.

    Raises:
        UnknownWorkload: There is no model, or none of that name, or several, or another than
            ``--model`` and ``--precision`` say.
        MetricsUnavailable: ``--metrics-url`` has no metrics of the model.
    """
    with ExitStack() as stack:
        if options.url is not None:
            served = _describe(options.url, options.metrics_url, options.triton_name, None, None)
            _check_served(served, options, options.url)
            if served.metrics_url is not None:
                check_metrics(served.metrics_url, served.triton_name)
            yield served
            return
        repository = options.repository
        if repository is None:
            repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lasttoken.")))
            name, precision = options.model or options.default_model, options.precision or "fp32"
            say(f"exporting {name} as {precision}")
            entry = catalogue_entry(name)
            checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder)
            wanted: dict[str, Any] = {"output": repository, "precision": precision}
            if (queue := getattr(options, "max_queue_tokens", None)) is not None:
                wanted["max_queue_tokens"] = queue
            export_model(checkpoint, entry, ExportOptions(**wanted))
        server = stack.enter_context(
            LocalTriton(repository, cache_folder=cache_folder, announce=say)
        )
        served = _describe(
            server.grpc_url, server.metrics_url, options.triton_name, server.pid, repository
        )
        if options.repository is not None:
            _check_served(served, options, str(repository))
        yield served


def _check_served(served: Serving, options: argparse.Namespace, where: str) -> None:
    """Hold ``--model`` and ``--precision`` against what the model's card says."""
    about = served.description
    for option, there in (
        ("model", {about.get("model"), served.triton_name}),
        ("precision", {about.get("precision")}),
    ):
        wanted = getattr(options, option, None)
        if wanted is not None and wanted not in there:
            found = about.get(option, served.triton_name)
            raise UnknownWorkload(
                f"--{option} is {wanted!r}, but {where} serves {found!r}: leave --{option} out, or "
                f"name what serves {wanted!r}"
            )


def _describe(
    url: str, metrics_url: str | None, name: str | None, pid: int | None, repository: Path | None
) -> Serving:
    with EmbeddingClient(url, name or "any") as client:
        models = [m for m in client.list_models(timeout_s=30) if m.ready]
    wanted = [m for m in models if name in (None, m.name)]
    if len(wanted) != 1:
        raise UnknownWorkload(
            f"the server at {url} has the models {[m.name for m in models]}; "
            "name one of them with --triton-name"
        )
    [model] = wanted
    assert model.dimensions is not None
    card = dict(model.card or {})
    kept = ("model", "precision", "runtime", "revision", "source", "parameters", "max_length")
    return Serving(
        url=url,
        metrics_url=metrics_url,
        triton_name=model.name,
        dimensions=model.dimensions,
        description={
            "triton_name": model.name,
            "dimensions": model.dimensions,
            **{key: card[key] for key in kept if key in card},
        },
        pid=pid,
        repository=repository,
    )
