"""lasttoken against its peers: same weights, same texts, same cores, one alternating run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lasttoken.local import LocalTriton
from lasttoken.local.cache_folder import default_cache_folder
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.graph.packed_graph import LONE_ROW
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_perf.bench import tokenize
from lasttoken_perf.corpus import texts_of
from lasttoken_perf.hf_folder import write_peer_folder
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.peers.agreement import Agreement, Vectors, agree
from lasttoken_perf.peers.contestants import (
    BARE,
    CORPUS,
    LIBRARY,
    MIXED,
    PEERS,
    SERVED,
    SERVER,
    SINGLE,
    Contestant,
    Material,
    not_started,
    start_peer,
)
from lasttoken_perf.peers.process import PeerProcess
from lasttoken_perf.peers.ratios import ratios
from lasttoken_perf.peers.timing import Timing, Work, measure
from lasttoken_perf.peers.weights import open_weights
from lasttoken_perf.results import make_result
from lasttoken_perf.served import embed_list, embed_one_by_one, embed_singly
from lasttoken_perf.workload import length_percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """What is measured.

    Attributes:
        model: Catalogue name.
        precision: Of our export.
        peers: Names of `PEERS`.
        texts: Texts of the corpus and of the mixed load.
        distribution: Their lengths, one of `DISTRIBUTIONS`.
        instruction: Written before every text and query; None for none.
        random_layers: So many layers of random weights in place of the model's own; of
            SFR-Embedding-Mistral only. None for the model.
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
    distribution: str = "mixture"
    instruction: str | None = None
    random_layers: int | None = None
    queries: int = 20
    repeats: int = 3
    clients: int = 64
    seed: int = 7
    cache_folder: Path | None = None


def run_compare(
    options: CompareOptions, *, say: Callable[[str], None], output: Path | None = None
) -> dict[str, Any]:
    """Run everything and return the result, with ``ratios`` and ``unavailable`` beside its rows.

    A peer that cannot run, fails, or whose vectors are others, is in ``unavailable`` with the
    reason.

    Args:
        options: What is measured.
        say: Told what is being done.
        output: Gets the rows that were finished, should a signal or an error end the run.

    Raises:
        WrongAnswer: Our own vectors are wrong.
        PeerFailed: The bare engine died.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lasttoken-peers.")))
        entry = catalogue_entry(options.model)
        checkpoint, gguf = open_weights(
            entry,
            folder,
            random_layers=options.random_layers,
            for_llama_cpp=any(
                peer.environment == "llama_cpp" for peer in PEERS if peer.name in options.peers
            ),
            cache_folder=options.cache_folder,
            say=say,
        )
        repository = folder / "repository"
        name = _export(checkpoint, entry, options.precision, repository, say)
        last_layer_whole = _computes_last_layer_whole(repository / f"{name}{ENCODER}")
        draw = partial(texts_of, seed=options.seed, instruction=options.instruction)
        texts = draw(options.distribution, options.texts)
        queries = draw("queries", options.queries)
        tokenizer = repository / f"{name}{TOKENIZER}" / "1"
        token_ids, rendered = tokenize(tokenizer, texts)
        query_ids, rendered_queries = tokenize(tokenizer, queries)
        exact: Vectors = {}
        if options.precision != "fp32":
            _export(checkpoint, entry, "fp32", folder / "fp32", say)
            exact = _fp32_vectors(folder, name, token_ids, query_ids)
        material = Material(
            texts=rendered,
            queries=rendered_queries,
            hf_folder=write_peer_folder(
                checkpoint, entry, folder / "huggingface", cache_folder=options.cache_folder
            ),
            gguf=gguf,
            pooling=entry.pooling,
            max_length=entry.max_length,
            threads=len(os.sched_getaffinity(0)),
            clients=options.clients,
            folder=folder,
            cache_folder=options.cache_folder or default_cache_folder(),
        )
        contestants = [
            _bare(folder, repository / f"{name}{ENCODER}", token_ids, query_ids,
                  options.precision, stack),
            _served(repository, name, texts, queries, options, stack),
        ]  # fmt: skip
        unavailable = not_started(entry.pooling)
        for peer in PEERS:
            if peer.name in options.peers:
                started = start_peer(peer, material, stack, say)
                if isinstance(started, str):
                    unavailable[peer.name] = started
                    say(f"{peer.name} cannot run here: {started}")
                else:
                    contestants.append(started)
        lengths = [len(ids) for ids in token_ids]
        work = Work(
            texts=len(texts),
            tokens=sum(lengths),
            queries=len(queries),
            query_tokens=sum(map(len, query_ids)),
            clients=options.clients,
            distribution=options.distribution,
        )
        agreement = Agreement(dimensions=checkpoint.config.hidden_size, exact=exact)
        agree(contestants, agreement, say)
        timing = Timing(failed=agreement.wrong)

        def result(interrupted: str | None = None) -> dict[str, Any]:
            made = make_result(
                kind="peers",
                what="lasttoken against its peers on the same weights, texts and cores",
                rows=timing.rows,
                model={
                    "name": options.model,
                    "triton_name": name,
                    "precision": options.precision,
                    "random_layers": options.random_layers,
                    "computes_last_layer_whole": last_layer_whole,
                },
                workload={
                    "distribution": options.distribution,
                    "instruction": options.instruction,
                    "seed": options.seed,
                    "texts": len(texts),
                    "tokens": sum(lengths),
                    "token_lengths": length_percentiles(lengths),
                    "queries": len(queries),
                },
                settings={"clients": options.clients, "repeats": options.repeats},
                checks={
                    "lowest_cosine_to_fp32_engine": agreement.lowest,
                    "lowest_cosine_of_served_to_engine": agreement.served[SERVED],
                },
                interrupted=interrupted,
            )
            return {
                **made,
                "ratios": ratios(timing.rows),
                "unavailable": {**unavailable, **timing.failed},
            }

        with rows_kept(output, after_rows(timing.rows, result)):
            measure(contestants, work, timing, agreement, repeats=options.repeats, say=say)
    return result()


def _computes_last_layer_whole(encoder: Path) -> bool:
    """Whether an encoder computes all tokens behind its last attention, not the pooled ones alone.

    Those do whose products give one token other bits than many.
    """
    return LONE_ROW in ir.load(encoder / "1" / "encoder.onnx").metadata_props


def _export(
    checkpoint: Checkpoint,
    entry: CatalogueEntry,
    precision: str,
    repository: Path,
    say: Callable[[str], None],
) -> str:
    say(f"exporting {entry.name} as {precision}")
    options = ExportOptions(output=repository, precision=precision)
    return export_model(checkpoint, entry, options).triton_name


def _fp32_vectors(
    folder: Path, name: str, token_ids: list[list[int]], query_ids: list[list[int]]
) -> Vectors:
    """Return what every peer is held to, where our own weights are not in fp32."""
    encoder = folder / "fp32" / f"{name}{ENCODER}"
    with _engine(encoder, token_ids, query_ids, folder) as process:
        return {"texts": process.corpus().vectors, "queries": process.single().vectors}


def _engine(
    encoder: Path, token_ids: list[list[int]], query_ids: list[list[int]], folder: Path
) -> PeerProcess:
    """Start the bare engine of an exported encoder."""
    parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
    return PeerProcess(
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


def _bare(
    folder: Path,
    encoder: Path,
    token_ids: list[list[int]],
    query_ids: list[list[int]],
    precision: str,
    stack: ExitStack,
) -> Contestant:
    process = stack.enter_context(_engine(encoder, token_ids, query_ids, folder))
    return Contestant(
        name=BARE,
        kind=LIBRARY,
        precision=precision,
        version=process.version,
        pid=process.pid,
        loads={CORPUS: process.corpus, SINGLE: process.single},
    )


def _served(
    repository: Path,
    name: str,
    texts: list[str],
    queries: list[str],
    options: CompareOptions,
    stack: ExitStack,
) -> Contestant:
    server = stack.enter_context(LocalTriton(repository, cache_folder=options.cache_folder))
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
