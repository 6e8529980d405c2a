"""The files of an exported model that every kind of export writes alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lasttoken_export.catalogue import CatalogueEntry, prompts_with_tasks
from lasttoken_export.checkpoint import ModelFiles
from lasttoken_export.errors import TokenizerMismatch
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.repository import RepositoryWriter
from lasttoken_export.server_modules import server_module


def write_tokenizer(
    writer: RepositoryWriter, files: ModelFiles, entry: CatalogueEntry, max_length: int
) -> list[Path]:
    """Write tokenizer.json and contract.json; return their paths."""
    prompts = prompts_with_tasks(entry.tokenizer)
    contract = {**entry.tokenizer, "prompts": prompts, "max_length": max_length}
    tokenizer_file = writer.version_folder(TOKENIZER) / "tokenizer.json"
    tokenizer_file.write_text(files.tokenizer_json(), encoding="utf-8")
    return [tokenizer_file, writer.write_json(TOKENIZER, "contract.json", contract)]


def check_tokenizer(writer: RepositoryWriter) -> None:
    """Load the tokenizer as the server will: special ids and golden ids are checked there.

    Raises:
        TokenizerMismatch: They differ.
    """
    module = server_module(TOKENIZER, "text_tokenizer")
    errors = server_module(TOKENIZER, "tokenizer_errors")
    try:
        module.load_text_tokenizer(writer.version_folder(TOKENIZER))
    except errors.InvalidContract as error:
        raise TokenizerMismatch(str(error)) from None


def save_graph(
    graph: ir.Model, path: Path, weight_bytes: int, on_bytes: Callable[[int, int], None] | None
) -> None:
    """Write a graph and, beside it, its weights.

    Args:
        graph: The graph.
        path: Its file.
        weight_bytes: Bytes of all weights.
        on_bytes: Told the bytes written and their total.
    """
    done = 0

    def written(tensor: ir.TensorProtocol, _: object) -> None:
        nonlocal done
        done += tensor.nbytes
        if on_bytes is not None:
            on_bytes(done, weight_bytes)

    ir.save(graph, path, external_data=f"{path.name}.data", callback=written)
    if on_bytes is not None:  # tensors of a few bytes stay in the graph's own file, unreported
        on_bytes(weight_bytes, weight_bytes)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 digest in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Return the SHA-256 digest of each file, by its path below a folder."""
    return {str(file.relative_to(folder)): sha256(file) for file in files}


def special_ids(tokenizer: Mapping[str, Any], *, behind: bool) -> list[int]:
    """Ids of the contract's special tokens in front of the text, or behind it."""
    sequence = list(tokenizer["sequence"])
    place = sequence.index("$A")
    special = sequence[place + 1 :] if behind else sequence[:place]
    return [int(tokenizer["special_tokens"][token]) for token in special]
