"""Tokens a second of every precision, bare and served, alternating within one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.quality.verify_repository import Artefact
from lasttoken_export.server_modules import server_module
from lasttoken_perf.bench import check_vectors
from lasttoken_perf.corpus import long_tailed_texts
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.precisions.engine_process import EngineProcess
from lasttoken_perf.results import Row
from lasttoken_perf.served import embed_one_by_one

BATCH_TOKENS = (64, 256, 512)
_TOKENS_A_POINT = 2048
LEAST_NEAREST = 0.5
"""Share of texts; of another model's vectors, or of another order, one text in all would be."""
BARE, SERVED = "bare engine", "lasttoken server"


def bare_rows(
    artefacts: Sequence[Artefact], *, repeats: int, say: Callable[[str], None]
) -> Iterator[Row]:
    """Time batches of 64, 256 and 512 tokens, each engine in a process of its own.

    Yields:
        A row a precision, size and repeat, as soon as it is measured.
    """
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
                    yield {
                        "subject": BARE,
                        "precision": precision,
                        "variant": f"batches of {batch_tokens} tokens",
                        "repeat": repeat,
                        "seconds": run["seconds"],
                        "tokens_per_s": run["tokens"] / run["seconds"],
                        "rss_bytes": run["rss_bytes"],
                    }
            say(f"bare engines: repeat {repeat} of {repeats}")


def served_rows(
    artefacts: Sequence[Artefact],
    entry: CatalogueEntry,
    *,
    texts: int,
    clients: int,
    repeats: int,
    cache_folder: Path | None,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Send one text a request to a real Triton that holds all precisions, one after the other.

    Yields:
        A row a precision and repeat, as soon as it is measured.

    Raises:
        WrongAnswer: What was served are no unit vectors, or those of another model than fp32's.
    """
    sent = long_tailed_texts(texts, seed=7)
    tokens = _count_tokens(artefacts[0], sent)
    exact = None
    with LocalTriton(artefacts[0].repository, cache_folder=cache_folder) as server:
        for repeat in range(1, repeats + 1):
            for artefact in artefacts:
                run = embed_one_by_one(server.grpc_url, artefact.name, sent, clients=clients)
                check_vectors(run.vectors, len(sent), entry.dimensions)
                exact = run.vectors if exact is None else exact
                check_same_texts(artefact.name, run.vectors, exact)
                yield {
                    "subject": SERVED,
                    "precision": artefact.card["precision"],
                    "load": "concurrency",
                    "concurrency": clients,
                    "repeat": repeat,
                    "seconds": run.seconds,
                    "texts_per_s": len(sent) / run.seconds,
                    "tokens_per_s": tokens / run.seconds,
                }
            say(f"served: repeat {repeat} of {repeats}")


def check_same_texts(name: str, vectors: NDArray[np.float32], exact: NDArray[np.float32]) -> None:
    """Check that each served vector is nearest to the first precision's vector of its own text.

    Args:
        name: Who served them.
        vectors: ``[texts, dim]``.
        exact: The same of the first precision, fp32.

    Raises:
        WrongAnswer: Fewer than half are: they are another model's, or in another order.
    """
    nearest = (vectors @ exact.T).argmax(axis=1)
    right = float((nearest == np.arange(len(vectors))).mean())
    if not right >= LEAST_NEAREST:
        raise WrongAnswer(
            f"{name}: only {right:.0%} of the served vectors are nearest to the vector of their "
            f"text in fp32, {LEAST_NEAREST:.0%} wanted"
        )


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
