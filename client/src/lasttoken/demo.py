"""`lasttoken demo`: export the demonstration model, serve it with a real Triton, embed."""

from __future__ import annotations

import argparse
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lasttoken.client import EmbeddingClient
from lasttoken.errors import LasttokenError

PARAPHRASES = (
    ("The cat is sleeping on the sofa.", "A kitten naps on the couch."),
    ("The stock market crashed today.", "Share prices fell sharply this afternoon."),
    ("How do I reset my password?", "I forgot my login and need a new password."),
    ("She plays the violin beautifully.", "Her violin playing is wonderful."),
    ("It will rain heavily tomorrow.", "Expect a big downpour the next day."),
    ("He cooked pasta for dinner.", "For the evening meal he made spaghetti."),
)
"""Pairs that say the same in other words."""

_LATENCY_REQUESTS = 100
_THROUGHPUT_TEXTS = 240


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the demo."""
    parser.add_argument("--model", default="smollm2-135m", help="catalogue name (%(default)s)")
    parser.add_argument(
        "--precision", default="fp32", help="fp32, fp16, int8, int8-weights or int4 (%(default)s)"
    )


def run_demo(
    *,
    model: str,
    precision: str,
    cache_folder: Path | None,
    python: str | None,
    show: Callable[[str], None],
    say: Callable[[str], None],
) -> bool:
    """Run the demo.

    Args:
        model: Catalogue name.
        precision: Precision of the export.
        cache_folder: Where packaged weights, Triton and its environment are kept.
        python: Interpreter of the server's models; None chooses one.
        show: Takes the lines of the result.
        say: Takes what is being done.

    Returns:
        Whether every sentence found its partner.

    Raises:
        LasttokenError: The exporter is not installed, or a step failed.
    """
    from lasttoken.local import LocalTriton

    try:
        from lasttoken_export.catalogue import entry as catalogue_entry
        from lasttoken_export.checkpoint import open_checkpoint
        from lasttoken_export.errors import ExportError
        from lasttoken_export.exporter import ExportOptions, export_model
    except ModuleNotFoundError as error:
        if error.name != "lasttoken_export":
            raise
        raise LasttokenError(
            "the demo exports a model first: pip install lasttoken-export"
        ) from error

    with tempfile.TemporaryDirectory(prefix="lasttoken-demo.") as folder:
        try:
            say(f"exporting {model} as {precision}")
            entry = catalogue_entry(model)
            checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder)
            options = ExportOptions(output=Path(folder), precision=precision)
            report = export_model(checkpoint, entry, options)
        except ExportError as error:
            raise LasttokenError(str(error)) from error
        say("starting Triton")
        started_s = time.monotonic()
        with LocalTriton(folder, cache_folder=cache_folder, python=python) as server:
            start_seconds = time.monotonic() - started_s
            parameters = f"{precision}, {report.weight_bytes / 1e6:.0f} MB of weights"
            show(f"model      {model} ({parameters}), licence {entry.licence.id}")
            show("runtime    ONNX Runtime CPU in a real Triton Inference Server, over gRPC")
            show(f"export     {report.seconds:.1f} s    server start  {start_seconds:.1f} s")
            with EmbeddingClient(server.grpc_url, report.triton_name) as client:
                all_found = _show_neighbours(client, show)
                _show_speed(client, show)
            computed, real, shared, kept = _tokens(str(server.metrics_url))
            padded = computed + shared + kept - real
            show(
                f"tokens     {real} in the texts, {computed} computed: {shared} shared by texts of "
                f"a batch that begin alike, {kept} kept from one before, {padded} padded"
            )
    return all_found


def _show_neighbours(client: EmbeddingClient, show: Callable[[str], None]) -> bool:
    sentences = [sentence for pair in PARAPHRASES for sentence in pair]
    similarity = _similarities(client.embed(sentences))
    np.fill_diagonal(similarity, -1.0)
    show("")
    show("nearest neighbour of each sentence")
    found = 0
    for index, sentence in enumerate(sentences):
        nearest = int(similarity[index].argmax())
        is_partner = nearest == index ^ 1
        found += is_partner
        mark = "ok  " if is_partner else "MISS"
        cosine = similarity[index, nearest]
        show(f"  {mark} {cosine:.3f}  {sentence:<44} {sentences[nearest]}")
    show(f"{found} of {len(sentences)} found their paraphrase")
    show("")
    return found == len(sentences)


def _similarities(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    cosines: npt.NDArray[np.float32] = vectors @ vectors.T
    return cosines


def _show_speed(client: EmbeddingClient, show: Callable[[str], None]) -> None:
    sentences = [sentence for pair in PARAPHRASES for sentence in pair]
    latencies_s = []
    for number in range(_LATENCY_REQUESTS):
        started_s = time.perf_counter()
        client.embed(sentences[number % len(sentences)])
        latencies_s.append(time.perf_counter() - started_s)
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1e3
    show(
        f"latency    p50 {p50:.1f} ms    p99 {p99:.1f} ms    (one sentence, one request at a time)"
    )

    texts = [f"{n}: {sentences[n % len(sentences)]}" for n in range(_THROUGHPUT_TEXTS)]
    started_s = time.perf_counter()
    answer = client.embed_full(texts, priority="bulk")
    seconds = time.perf_counter() - started_s
    tokens = int(answer.token_counts.sum())
    show(f"throughput {tokens / seconds:.0f} tokens/s    {len(texts) / seconds:.0f} texts/s")


def _tokens(metrics_url: str) -> tuple[int, int, int, int]:
    """Computed, real, shared and kept tokens of the encoder, from Triton's metrics."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:  # noqa: S310 - our own server
        lines = answer.read().decode().splitlines()

    def total(name: str) -> int:
        series = [line for line in lines if line.startswith(f"lasttoken_encoder_{name}_total{{")]
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in series))

    computed, real, shared, kept = (
        total(f"{kind}_tokens") for kind in ("computed", "real", "shared", "kept")
    )
    return computed, real, shared, kept
