"""Tokens a second of every precision, bare and served, alternating within one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.quality.verify_repository import Artefact
from lasttoken_export.server_modules import server_module
from lasttoken_perf.bench import check_vectors
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.precisions.engine_process import EngineProcess
from lasttoken_perf.results import Row
from lasttoken_perf.served import embed_one_by_one

BATCH_TOKENS = (64, 256, 512)
_TOKENS_A_POINT = 2048
BARE, SERVED = "bare engine", "lasttoken server"


def bare_rows(
    artefacts: Sequence[Artefact], *, repeats: int, say: Callable[[str], None]
) -> list[Row]:
    """Time batches of 64, 256 and 512 tokens, each engine in a process of its own."""
    rows: list[Row] = []
    with ExitStack() as stack:
        engines = {
            artefact.card["precision"]: stack.enter_context(
                EngineProcess(artefact.graph, vocab_size=artefact.card["vocab_size"])
            )
            for artefact in artefacts
        }
        for repeat in range(1, repeats + 1):
            for batch_tokens in BATCH_TOKENS:
                for precision, engine in engines.items():
                    run = engine.run(
                        batch_tokens=batch_tokens, batches=_TOKENS_A_POINT // batch_tokens
                    )
                    rows.append(
                        {
                            "subject": BARE,
                            "precision": precision,
                            "variant": f"batches of {batch_tokens} tokens",
                            "repeat": repeat,
                            "seconds": run["seconds"],
                            "tokens_per_s": run["tokens"] / run["seconds"],
                            "rss_bytes": run["rss_bytes"],
                        }
                    )
            say(f"bare engines: repeat {repeat} of {repeats}")
    return rows


def served_rows(
    artefacts: Sequence[Artefact],
    entry: CatalogueEntry,
    *,
    texts: int,
    clients: int,
    repeats: int,
    cache_folder: Path | None,
    say: Callable[[str], None],
) -> list[Row]:
    """Send one text a request to a real Triton that holds all precisions, one after the other."""
    sent = long_tailed_texts(texts, seed=7)
    tokens = _count_tokens(artefacts[0], sent)
    rows: list[Row] = []
    with LocalTriton(artefacts[0].repository, cache_folder=cache_folder) as server:
        for repeat in range(1, repeats + 1):
            for artefact in artefacts:
                run = embed_one_by_one(server.grpc_url, artefact.name, sent, clients=clients)
                check_vectors(run.vectors, len(sent), entry.dimensions)
                rows.append(
                    {
                        "subject": SERVED,
                        "precision": artefact.card["precision"],
                        "load": "concurrency",
                        "concurrency": clients,
                        "repeat": repeat,
                        "seconds": run.seconds,
                        "texts_per_s": len(sent) / run.seconds,
                        "tokens_per_s": tokens / run.seconds,
                    }
                )
            say(f"served: repeat {repeat} of {repeats}")
    return rows


def _count_tokens(artefact: Artefact, texts: Sequence[str]) -> int:
    """Tokens of the texts in the model's default prompt, as the server counts them."""
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(
        artefact.tokenizer_folder
    )
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    prompted = [
        apply_prompt(tokenizer.contract, text, prompt_name=None, instruction=None) for text in texts
    ]
    return sum(len(row.ids) for row in tokenizer.encode(prompted))
