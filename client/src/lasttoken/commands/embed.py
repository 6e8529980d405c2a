"""`lasttoken embed`: texts in, vectors out, through a running server."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lasttoken.client import EmbeddingClient
from lasttoken.commands.command import Command, add_server_arguments, print_all, say
from lasttoken.embeddings import Embeddings
from lasttoken.errors import InvalidInput, ModelNotFound
from lasttoken.options import RetryPolicy

_RETRY = RetryPolicy(max_attempts=6)  # about a second: somebody waits at the terminal


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
        print_all(_embedding_lines(texts, embeddings, as_json=arguments.json))
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


EMBED = Command(
    name="embed",
    summary="embed texts with a running server",
    add_arguments=_add_embed_arguments,
    run=_embed,
)
