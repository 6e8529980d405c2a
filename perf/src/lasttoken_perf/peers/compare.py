"""lasttoken against its peers: same weights, same texts, same cores, one alternating run."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken.local import LocalTriton
from lasttoken.local.cache_folder import default_cache_folder
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import Checkpoint, open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_perf.bench import check_vectors, tokenize
from lasttoken_perf.corpus import texts_of
from lasttoken_perf.hf_folder import gguf_of, write_entry_folder, write_pooling_modules
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.machine import device_name
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.peers.contestants import (
    CORPUS,
    GPU_PEERS,
    LIBRARY,
    MIXED,
    PEERS,
    SERVER,
    SINGLE,
    Contestant,
    Material,
    start_peer,
)
from lasttoken_perf.peers.process import PeerProcess
from lasttoken_perf.results import Row, make_result, spread
from lasttoken_perf.served import embed_list, embed_one_by_one, embed_singly
from lasttoken_perf.workload import length_percentiles

BARE, SERVED = "bare engine", "lasttoken server"

LOWEST_COSINE = {"fp32": 0.9999, "q8_0": 0.97, "int8": 0.97}
"""Of a peer's vectors to the bare engine's of the same weights in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What is measured.

    Attributes:
        model: Catalogue name.
        precision: Of our export.
        peers: Names of `PEERS`.
        texts: Texts of the mixture.
        queries: Short queries of the single load.
        repeats: Timed runs of every contestant and load, alternating.
        clients: Requests at a time of the mixed load.
        seed: Decides the texts.
        cache_folder: Where weights and environments are kept; None for the default.
    """

    model: str = "smollm2-135m"
    precision: str = "fp32"
    peers: Sequence[str] = tuple(peer.name for peer in PEERS)
    texts: int = 96
    queries: int = 20
    repeats: int = 3
    clients: int = 64
    seed: int = 7
    cache_folder: Path | None = None


def run_compare(options: CompareOptions, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Run everything and return the result, with ``ratios`` and ``unavailable`` beside its rows.

    A peer that cannot run, or whose vectors are others, is in ``unavailable`` with the reason.

    Raises:
        WrongAnswer: Our own vectors are wrong.
        PeerFailed: A contestant died while it was timed.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lasttoken-peers.")))
        entry = catalogue_entry(options.model)
        checkpoint = open_checkpoint(entry.source, cache_folder=options.cache_folder)
        say(f"exporting {options.model} as {options.precision}")
        report = export_model(
            checkpoint,
            entry,
            ExportOptions(output=folder / "repository", precision=options.precision),
        )
        name = report.triton_name
        texts = texts_of("mixture", options.texts, seed=options.seed)
        queries = texts_of("queries", options.queries, seed=options.seed)
        tokenizer = folder / "repository" / f"{name}{TOKENIZER}" / "1"
        token_ids, rendered = tokenize(tokenizer, texts)
        query_ids, rendered_queries = tokenize(tokenizer, queries)
        material = Material(
            texts=rendered,
            queries=rendered_queries,
            hf_folder=_hf_folder(checkpoint, entry, folder / "huggingface", options.cache_folder),
            gguf=gguf_of(entry, cache_folder=options.cache_folder),
            pooling=entry.pooling,
            max_length=entry.max_length,
            threads=len(os.sched_getaffinity(0)),
            clients=options.clients,
            folder=folder,
            cache_folder=options.cache_folder or default_cache_folder(),
        )
        contestants = [
            _bare(folder, name, token_ids, query_ids, options.precision, stack),
            _served(folder, name, texts, queries, options, stack),
        ]
        unavailable = {
            peer: f"needs a GPU machine; there: {how}" for peer, how in GPU_PEERS.items()
        }
        for peer in PEERS:
            if peer.name in options.peers:
                started = start_peer(peer, material, stack, say)
                if isinstance(started, str):
                    unavailable[peer.name] = started
                    say(f"{peer.name} cannot run here: {started}")
                else:
                    contestants.append(started)
        lengths = [len(ids) for ids in token_ids]
        agreement, wrong = agree(contestants, checkpoint.config.hidden_size, say)
        unavailable |= wrong
        contestants = [c for c in contestants if c.name not in wrong]
        rows = _measure(contestants, options, sum(lengths), sum(map(len, query_ids)),
                        (len(texts), len(queries)), checkpoint.config.hidden_size, say)  # fmt: skip
    result = make_result(
        kind="peers",
        what="lasttoken against its peers on the same weights, texts and cores",
        rows=rows,
        model={"name": options.model, "triton_name": name, "precision": options.precision},
        workload={
            "distribution": "mixture",
            "seed": options.seed,
            "texts": len(texts),
            "tokens": sum(lengths),
            "token_lengths": length_percentiles(lengths),
            "queries": len(queries),
        },
        settings={"clients": options.clients, "repeats": options.repeats},
        checks={"cosine_to_bare_engine": agreement},
    )
    return {**result, "ratios": ratios(rows), "unavailable": unavailable}


def agree(
    contestants: Sequence[Contestant], dimensions: int, say: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, str]]:
    """Run each load once, untimed, and compare the vectors with the first contestant's.

    Returns:
        The lowest cosine of each contestant, and why contestants must not be timed.
    """
    reference: dict[str, NDArray[np.float32]] = {}
    lowest: dict[str, float] = {}
    wrong: dict[str, str] = {}
    for contestant in contestants:
        bar = LOWEST_COSINE.get(contestant.precision, 0.97)
        for load, run in contestant.loads.items():
            vectors = run().vectors
            against = reference.setdefault("single" if load == SINGLE else "texts", vectors)
            if vectors.shape != against.shape or vectors.shape[1] != dimensions:
                wrong[contestant.name] = (
                    f"gave vectors of shape {vectors.shape}, not {against.shape}"
                )
                break
            cosine = float((vectors * against).sum(axis=1).min())
            lowest[contestant.name] = min(cosine, lowest.get(contestant.name, 1.0))
            if not cosine >= bar:
                wrong[contestant.name] = (
                    f"its vectors are others: cosine {cosine:.4f} on the {load} load, {bar} wanted"
                )
                break
        say(f"{contestant.name}: lowest cosine {lowest.get(contestant.name, float('nan')):.6f}")
    return lowest, wrong


def ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Speed of ours over each peer's, repeat by repeat: library to engine, server to server.

    Returns:
        ``"<ours> / <peer>, <load>"`` to the spread of tokens a second (corpus, mixed) or of the
        peer's p50 over ours (single); and ``"<served> - <bare>, single, ms"``.
    """
    by: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        by.setdefault((row["subject"], row["load"]), {})[row["repeat"]] = row
    found = {}
    for (subject, load), theirs in by.items():
        for ours in (SERVED, BARE):
            mine = by.get((ours, load))
            if subject in (SERVED, ours) or mine is None:
                continue
            single = load == SINGLE
            found[f"{ours} / {subject}, {load}"] = spread(
                [
                    theirs[n]["p50_ms"] / mine[n]["p50_ms"]
                    if single
                    else mine[n]["tokens_per_s"] / theirs[n]["tokens_per_s"]
                    for n in theirs
                ]
            )
    served, bare = by.get((SERVED, SINGLE)), by.get((BARE, SINGLE))
    if served and bare:
        found[f"{SERVED} - {BARE}, {SINGLE}, ms"] = spread(
            [served[n]["p50_ms"] - bare[n]["p50_ms"] for n in served]
        )
    return found


def _measure(
    contestants: Sequence[Contestant],
    options: CompareOptions,
    tokens: int,
    query_tokens: int,
    counts: tuple[int, int],
    dimensions: int,
    say: Callable[[str], None],
) -> list[Row]:
    rows: list[Row] = []
    device = device_name()
    for repeat in range(1, options.repeats + 1):
        for load in (CORPUS, MIXED, SINGLE):
            for contestant in contestants:
                if load not in contestant.loads:
                    continue
                with ResourceMonitor(contestant.pid) as monitor:
                    run = contestant.loads[load]()
                count = counts[1] if load == SINGLE else counts[0]
                check_vectors(run.vectors, count, dimensions)
                real = query_tokens if load == SINGLE else tokens
                row: Row = {
                    "subject": contestant.name,
                    "version": contestant.version,
                    "device": device,
                    "precision": contestant.precision,
                    "distribution": "queries" if load == SINGLE else "mixture",
                    "load": load,
                    "repeat": repeat,
                    "seconds": run.seconds,
                    "requests": count,
                    "texts_per_s": count / run.seconds,
                    "tokens_per_s": real / run.seconds,
                    **monitor.fields(),
                }
                if load == MIXED:
                    row["concurrency"] = options.clients
                if run.latency_ms:
                    row |= latency_fields(np.array(run.latency_ms))
                rows.append(row)
                say(
                    f"repeat {repeat}: {contestant.name}, {load}: {row['tokens_per_s']:.0f} "
                    f"tokens/s" + (f", p50 {row['p50_ms']:.1f} ms" if run.latency_ms else "")
                )
    return rows


def _bare(
    folder: Path,
    name: str,
    token_ids: list[list[int]],
    query_ids: list[list[int]],
    precision: str,
    stack: ExitStack,
) -> Contestant:
    encoder = folder / "repository" / f"{name}{ENCODER}"
    parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
    process = stack.enter_context(
        PeerProcess(
            "lasttoken_perf.peers.bare_engine",
            {
                "graph": str(encoder / "1" / "encoder.onnx"),
                "token_ids": token_ids,
                "query_ids": query_ids,
                "queries": query_ids,
                "batch_tokens": int(parameters["preferred_batch_tokens"].string_value),
                "intra_op_threads": int(parameters["intra_op_threads"].string_value),
            },
            folder,
        )
    )
    return Contestant(
        name=BARE,
        kind=LIBRARY,
        precision=precision,
        version=process.version,
        pid=process.pid,
        loads={CORPUS: process.corpus, SINGLE: process.single},
    )


def _served(
    folder: Path,
    name: str,
    texts: list[str],
    queries: list[str],
    options: CompareOptions,
    stack: ExitStack,
) -> Contestant:
    server = stack.enter_context(
        LocalTriton(folder / "repository", cache_folder=options.cache_folder)
    )
    return Contestant(
        name=SERVED,
        kind=SERVER,
        precision=options.precision,
        version="",
        pid=server.pid,
        loads={
            CORPUS: lambda: embed_list(server.grpc_url, name, texts),
            MIXED: lambda: embed_one_by_one(server.grpc_url, name, texts, clients=options.clients),
            SINGLE: lambda: embed_singly(server.grpc_url, name, queries),
        },
    )


def _hf_folder(
    checkpoint: Checkpoint, entry: CatalogueEntry, folder: Path, cache_folder: Path | None
) -> Path:
    write_entry_folder(checkpoint, entry, folder, cache_folder=cache_folder)
    if not (folder / "tokenizer_config.json").exists():
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "BertTokenizerFast",
                    "model_max_length": entry.max_length,
                    "do_lower_case": True,
                }
            )
        )
    write_pooling_modules(
        folder,
        pooling=entry.pooling,
        dimensions=checkpoint.config.hidden_size,
        max_length=entry.max_length,
    )
    return folder
