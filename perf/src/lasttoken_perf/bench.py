"""Served throughput against the bare engine and sentence-transformers, in one alternating run.

Same weights, same texts, same cores. Vectors of every contestant are compared with the bare
engine's before anything is timed: a fast wrong answer is no result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.hf_folder import write_entry_folder, write_pooling_modules
from lasttoken_perf.machine import describe_machine
from lasttoken_perf.peers.process import PeerProcess, PeerRun
from lasttoken_perf.results import spread
from lasttoken_perf.served import embed_list, embed_one_by_one, read_metrics

BARE, SERVED, SERVED_LIST, SENTENCE_TRANSFORMERS = (
    "bare engine, perfect batches",
    "served, one text a request",
    "served, one list",
    "sentence-transformers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What is measured.

    Attributes:
        model: Catalogue name.
        texts: Number of texts.
        seed: Decides the texts.
        repeats: Timed runs of each contestant, alternating.
        clients: Requests at a time where each carries one text.
        with_peers: Whether sentence-transformers is run too.
        cache_folder: Where packaged weights are kept.
    """

    model: str = "smollm2-135m"
    texts: int = 160
    seed: int = 7
    repeats: int = 3
    clients: int = 64
    with_peers: bool = True
    cache_folder: Path | None = None


def run_bench(options: BenchOptions, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything and return what the JSON file holds.

    Args:
        options: What is measured.
        say: Told what is being done.

    Raises:
        WrongAnswer: A contestant's vectors are not those of the bare engine.
        PeerFailed: A contestant's process died.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lasttoken-bench.")))
        say(f"exporting {options.model}")
        entry = catalogue_entry(options.model)
        checkpoint = open_checkpoint(entry.source, cache_folder=options.cache_folder)
        report = export_model(checkpoint, entry, ExportOptions(output=folder / "repository"))
        name = report.triton_name
        texts = long_tailed_texts(options.texts, seed=options.seed)
        token_ids, rendered = tokenize(folder / "repository" / f"{name}{TOKENIZER}" / "1", texts)
        tokens = sum(map(len, token_ids))

        encoder = folder / "repository" / f"{name}{ENCODER}"
        parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
        bare = stack.enter_context(
            PeerProcess(
                "lasttoken_perf.peers.bare_engine",
                {
                    "graph": str(encoder / "1" / "encoder.onnx"),
                    "token_ids": token_ids,
                    "batch_tokens": int(parameters["preferred_batch_tokens"].string_value),
                    "intra_op_threads": int(parameters["intra_op_threads"].string_value),
                },
                folder,
            )
        )
        server = stack.enter_context(LocalTriton(folder / "repository"))
        contestants: dict[str, Callable[[], PeerRun]] = {
            BARE: bare.corpus,
            SERVED: lambda: embed_one_by_one(server.grpc_url, name, texts, clients=options.clients),
            SERVED_LIST: lambda: embed_list(server.grpc_url, name, texts),
        }
        if options.with_peers:
            write_entry_folder(
                checkpoint, entry, folder / "huggingface", cache_folder=options.cache_folder
            )
            write_pooling_modules(
                folder / "huggingface",
                pooling=entry.pooling,
                dimensions=checkpoint.config.hidden_size,
                max_length=entry.max_length,
            )
            settings = {"folder": str(folder / "huggingface"), "texts": rendered,
                        "queries": [], "max_length": entry.max_length}  # fmt: skip
            peer = PeerProcess("lasttoken_perf.peers.sentence_transformers", settings, folder)
            contestants[SENTENCE_TRANSFORMERS] = stack.enter_context(peer).corpus

        agreement = _agreement(contestants, say)
        before = read_metrics(server.metrics_url)
        seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        for repeat in range(options.repeats):
            for contestant, run in contestants.items():
                result = run()
                check_vectors(result.vectors, len(texts), checkpoint.config.hidden_size)
                seconds[contestant].append(result.seconds)
                say(f"repeat {repeat + 1}: {contestant}: {tokens / result.seconds:.0f} tokens/s")
        after = read_metrics(server.metrics_url)
    return {
        "what": "throughput on a long-tailed mixture of texts",
        "model": options.model,
        "texts": len(texts),
        "tokens": tokens,
        "token_lengths": {
            f"p{p}": float(np.percentile(list(map(len, token_ids)), p))
            for p in (0, 10, 50, 90, 99, 100)
        },
        "seconds": seconds,
        "tokens_per_s": {name: spread([tokens / s for s in all_s])
                         for name, all_s in seconds.items()},
        "ratios": _ratios(seconds),
        "agreement_with_bare_engine": agreement,
        "server_metrics": {key: after[key] - before.get(key, 0.0) for key in sorted(after)
                           if key.startswith("lasttoken_") and key.endswith("_total")},
        "machine": describe_machine(),
    }  # fmt: skip


def check_vectors(vectors: np.ndarray, texts: int, dimensions: int) -> None:
    """Refuse to time what is not one unit vector a text.

    Raises:
        WrongAnswer: Wrong shape, or a norm off 1 by more than 1e-3.
    """
    if vectors.shape != (texts, dimensions):
        raise WrongAnswer(f"got vectors of shape {vectors.shape}, not {(texts, dimensions)}")
    error = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    if not error <= 1e-3:
        raise WrongAnswer(f"a vector's norm is off 1 by {error}")


def tokenize(folder: Path, texts: list[str]) -> tuple[list[list[int]], list[str]]:
    """Token ids as the server makes them, and the texts with the default prompt written out."""
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
    prompts = server_module(TOKENIZER, "prompts")
    prompted = [
        prompts.apply_prompt(tokenizer.contract, text, prompt_name=None, instruction=None)
        for text in texts
    ]
    rows = tokenizer.encode(prompted)
    return [row.ids.tolist() for row in rows], [text.text for text in prompted]


def _agreement(
    contestants: dict[str, Callable[[], PeerRun]], say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Run each contestant once, untimed, and compare its vectors with the bare engine's."""
    agreement: dict[str, dict[str, float]] = {}
    reference: np.ndarray | None = None
    for name, run in contestants.items():
        vectors = run().vectors
        reference = vectors if reference is None else reference
        if vectors.shape != reference.shape:
            raise WrongAnswer(f"{name} gave {vectors.shape}, the bare engine {reference.shape}")
        lowest = float((vectors * reference).sum(axis=1).min())
        difference = float(np.abs(vectors - reference).max())
        say(f"{name}: lowest cosine to the bare engine {lowest:.7f}, difference {difference:.1e}")
        if not lowest >= 0.9999:
            raise WrongAnswer(f"{name} does not agree with the bare engine: cosine {lowest}")
        agreement[name] = {"lowest_cosine": lowest, "largest_difference": difference}
    return agreement


def _ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Speed of the served model over each other contestant's, repeat by repeat."""
    return {
        f"{served} / {other}": spread(
            [theirs / ours for ours, theirs in zip(seconds[served], seconds[other], strict=True)]
        )
        for served in (SERVED, SERVED_LIST)
        for other in (BARE, SENTENCE_TRANSFORMERS)
        if other in seconds
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the result."""
    yield "| contestant | tokens/s (median) | min | max |"
    yield "|---|---|---|---|"
    for name, s in result["tokens_per_s"].items():
        yield f"| {name} | {s['median']:.0f} | {s['min']:.0f} | {s['max']:.0f} |"
    yield ""
    yield "| ratio | median | min | max |"
    yield "|---|---|---|---|"
    for name, s in result["ratios"].items():
        yield f"| {name} | {s['median']:.2f} | {s['min']:.2f} | {s['max']:.2f} |"
