"""Served throughput against the bare engine and sentence-transformers, in one alternating run.

Same weights, same texts, same cores. Vectors of every contestant are compared with the bare
engine's before anything is timed: a fast wrong answer is no result.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from lasttoken_perf.errors import MissingLibrary, WrongAnswer
from lasttoken_perf.hf_folder import write_peer_folder
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.machine import device_name
from lasttoken_perf.peers.process import PeerProcess, PeerRun
from lasttoken_perf.results import Row, make_result, spread
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


def run_bench(
    options: BenchOptions, *, say: Callable[[str], None], output: Path | None = None
) -> dict[str, Any]:
    """Run everything and return the result, with ``tokens_per_s`` and ``ratios`` beside its rows.

    Args:
        options: What is measured.
        say: Told what is being done.
        output: Gets the rows that were finished, should a signal or an error end the run.

    Raises:
        MissingLibrary: sentence-transformers is to be run and not installed.
        WrongAnswer: A contestant's vectors are not those of the bare engine.
        PeerFailed: A contestant's process died.
    """
    if options.with_peers and importlib.util.find_spec("sentence_transformers") is None:
        raise MissingLibrary(
            "sentence-transformers is not installed beside this command; install it (make "
            "reference), leave it out with --no-peers, or let `lasttoken-perf peers` install it"
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lasttoken-bench.")))
        entry = catalogue_entry(options.model)
        checkpoint = open_checkpoint(entry.source, cache_folder=options.cache_folder)
        say(f"exporting {options.model}")
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
        server = stack.enter_context(
            LocalTriton(folder / "repository", cache_folder=options.cache_folder)
        )
        contestants: dict[str, Callable[[], PeerRun]] = {
            BARE: bare.corpus,
            SERVED: lambda: embed_one_by_one(server.grpc_url, name, texts, clients=options.clients),
            SERVED_LIST: lambda: embed_list(server.grpc_url, name, texts),
        }
        if options.with_peers:
            hf_folder = write_peer_folder(
                checkpoint, entry, folder / "huggingface", cache_folder=options.cache_folder
            )
            settings = {"folder": str(hf_folder), "texts": rendered,
                        "queries": [], "max_length": entry.max_length}  # fmt: skip
            peer = PeerProcess("lasttoken_perf.peers.sentence_transformers", settings, folder)
            contestants[SENTENCE_TRANSFORMERS] = stack.enter_context(peer).corpus

        agreement = _agreement(contestants, say)
        before = read_metrics(server.metrics_url)
        rows: list[Row] = []

        def result(interrupted: str | None = None) -> dict[str, Any]:
            after = read_metrics(server.metrics_url) if interrupted is None else {}
            return _result(options, name, rows, token_ids, interrupted) | {
                "agreement_with_bare_engine": agreement,
                "server_metrics": {key: after[key] - before.get(key, 0.0) for key in sorted(after)
                                   if key.startswith("lasttoken_") and key.endswith("_total")},
            }  # fmt: skip

        with rows_kept(output, after_rows(rows, result)):
            for repeat in range(1, options.repeats + 1):
                for contestant, run in contestants.items():
                    done = run()
                    check_vectors(done.vectors, len(texts), checkpoint.config.hidden_size)
                    rows.append(_row(contestant, repeat, done.seconds, len(texts), tokens))
                    if contestant == SERVED:
                        rows[-1]["concurrency"] = options.clients
                    say(f"repeat {repeat}: {contestant}: {tokens / done.seconds:.0f} tokens/s")
            return result()


def _row(contestant: str, repeat: int, seconds: float, texts: int, tokens: int) -> Row:
    return {
        "subject": contestant,
        "device": device_name(),
        "precision": "fp32",
        "distribution": "mixture",
        "load": "corpus",
        "repeat": repeat,
        "seconds": seconds,
        "texts_per_s": texts / seconds,
        "tokens_per_s": tokens / seconds,
    }


def _result(
    options: BenchOptions,
    triton_name: str,
    rows: Sequence[Row],
    token_ids: Sequence[Sequence[int]],
    interrupted: str | None,
) -> dict[str, Any]:
    lengths = [len(ids) for ids in token_ids]
    seconds: dict[str, list[float]] = {}
    for row in rows:
        seconds.setdefault(row["subject"], []).append(row["seconds"])
    made = make_result(
        kind="bench",
        what="throughput on a long-tailed mixture of texts",
        rows=rows,
        model={"name": options.model, "triton_name": triton_name, "precision": "fp32"},
        workload={
            "distribution": "mixture",
            "seed": options.seed,
            "texts": len(lengths),
            "tokens": sum(lengths),
            "token_lengths": {
                f"p{p}": float(np.percentile(lengths, p)) for p in (0, 10, 50, 90, 99, 100)
            },
        },
        settings={"clients": options.clients, "repeats": options.repeats},
        checks={"vectors": "cosine 0.9999 or more to the bare engine's before anything was timed; "
                "each timed run one a text, of the model's size, norm within 1e-3 of 1"},
        packages=["sentence-transformers", "torch"],
        interrupted=interrupted,
    )  # fmt: skip
    speeds = {name: spread([sum(lengths) / s for s in all_s]) for name, all_s in seconds.items()}
    return {**made, "tokens_per_s": speeds, "ratios": _ratios(seconds)}


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
            # an interrupted run lacks the last repeat of some
            [theirs / ours for ours, theirs in zip(seconds[served], seconds[other], strict=False)]
        )
        for served in (SERVED, SERVED_LIST)
        for other in (BARE, SENTENCE_TRANSFORMERS)
        if other in seconds and served in seconds
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
