"""Texts of files into a file of vectors, a run that can be interrupted and gone on with."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken.client import EmbeddingClient
from lasttoken.embeddings import ModelInfo
from lasttoken.errors import InvalidInput
from lasttoken.files.part_folder import PartFolder
from lasttoken.files.text_source import TextSource
from lasttoken.files.vector_file import write_vectors
from lasttoken.progress import Progress
from lasttoken.vector_form import check_form, check_trained_size

TEXTS_PER_REQUEST = 32
"""Half of what a client sends otherwise: what is with a slow server when a run ends is not kept."""

_BLOCK_TEXTS = 128
"""Texts whose rows are written together. Four such blocks are on their way at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRun:
    """What is embedded into which file.

    Attributes:
        source: The texts.
        output: `.npy`, `.jsonl` or `.parquet`.
        settings: Arguments of `embed_blocks` that decide the vectors.
        timeout_s: Time for each request, in seconds.
        priority: The server's queue.
    """

    source: TextSource
    output: Path
    settings: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 60.0
    priority: Any = "bulk"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """How a run ended.

    Attributes:
        rows: Rows in the output file.
        resumed: Rows of them that were done before.
        width: Elements of a vector.
        truncated: Texts of this run that were cut.
    """

    rows: int
    resumed: int
    width: int
    truncated: int


def embed_file(client: EmbeddingClient, run: FileRun, part: PartFolder) -> FileResult:
    """Embed all texts of a source; go on with an unfinished run of the same.

    Whatever ends it early, rows that are done stay in the part folder.

    Args:
        client: Of the server.
        run: What to embed.
        part: The folder of its output.

    Raises:
        InvalidInput: The unfinished run was of something else, or an input file is wrong.
        LasttokenError: Embedding failed.
    """
    info = client.model_info(timeout_s=run.timeout_s)
    form = check_form(
        dimensions=run.settings.get("dimensions"),
        force_dimensions=run.settings.get("force_dimensions", False),
        output_dtype=run.settings.get("output_dtype", "float32"),
        ranges=run.settings.get("ranges"),
    )
    check_trained_size(form, info)
    full = np.zeros((0, info.dimensions or 0), dtype=np.float32)
    empty = form.apply(full)
    width = empty.shape[1]
    part.make()
    with closing(part):
        done = part.begin(_state(run, info), empty.dtype, width)
        part.rows_wanted = run.source.count()
        with closing(Progress(part.rows_wanted, done=done)) as progress:
            truncated, rows = _embed_rest(client, run, part, done, progress)
    write_vectors(
        run.output,
        part.chunks(rows),
        run.source.texts(),
        count=rows,
        dtype=empty.dtype,
        width=width,
        metadata=_metadata(info),
    )
    part.remove()
    return FileResult(rows=rows, resumed=done, width=width, truncated=truncated)


def _embed_rest(
    client: EmbeddingClient, run: FileRun, part: PartFolder, done: int, progress: Progress
) -> tuple[int, int]:
    texts = run.source.texts()
    part.check_texts(texts, done)
    sent, kept = itertools.tee(texts)  # holds what was read ahead and has no vector yet
    truncated = 0
    rows = done
    blocks = client.embed_blocks(
        sent,
        timeout_s=run.timeout_s,
        priority=run.priority,
        block_texts=_BLOCK_TEXTS,
        **run.settings,
    )
    for block in blocks:
        count = len(block.vectors)
        part.append(list(itertools.islice(kept, count)), block)
        rows += count
        truncated += int(block.truncated.sum())
        progress.advance(count)
    return truncated, rows


def _state(run: FileRun, info: ModelInfo) -> dict[str, Any]:
    """What must be the same for the rows of two runs to belong together."""
    card = json.dumps(info.card, sort_keys=True).encode()
    settings = {
        name: np.asarray(value).tolist() if name == "ranges" and value is not None else value
        for name, value in run.settings.items()
    }
    return {
        "format": 1,
        "model": info.name,
        "model_version": info.version,
        "card_sha256": hashlib.sha256(card).hexdigest(),
        "column": run.source.column,
        **settings,
    }


def _metadata(info: ModelInfo) -> dict[str, str]:
    card = info.card or {}
    names = ("model", "source", "revision", "precision")
    known = {f"lasttoken.{name}": str(card[name]) for name in names if card.get(name)}
    return {"lasttoken.triton_model": info.name, **known}


def spool(lines: Iterator[str], part: PartFolder) -> Path:
    """Copy texts of standard input into the part folder, so that they can be read again.

    Raises:
        InvalidInput: They are not UTF-8, or there is no room.
    """
    part.make()
    path = part.path / "stdin.txt"
    unfinished = path.with_suffix(".writing")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        unfinished.replace(path)
    except OSError as error:
        raise InvalidInput(f"standard input cannot be copied to {path}: {error}") from error
    return path
