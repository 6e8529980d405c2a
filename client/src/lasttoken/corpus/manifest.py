"""What decides the vectors of a run, written beside them: a resumed run must agree in all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from lasttoken.corpus.options import CorpusOptions
from lasttoken.corpus.places import Place, files_in, read_bytes, write_bytes
from lasttoken.corpus.plan import Plan
from lasttoken.embeddings import ModelInfo
from lasttoken.errors import InvalidInput

MANIFEST = "_lasttoken.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What makes a served model give the vectors that it gives.

    Attributes:
        name: Triton's name of the ensemble.
        dimensions: Length of its vectors.
        source: Where the weights came from; None without a card.
        revision: Revision of the source; None where it has none.
        precision: Such as `"fp16"`; None without a card.
        runtime: What runs the graph; None without a card.
        digest: SHA-256 over the digests of all files that decide the vectors; None without a card.
    """

    name: str
    dimensions: int
    source: str | None
    revision: str | None
    precision: str | None
    runtime: str | None
    digest: str | None


def identity_of(info: ModelInfo) -> ModelIdentity:
    """Read a model's identity from what its server says."""
    card: Mapping[str, Any] = info.card or {}
    digests = card.get("sha256")
    content = json.dumps(digests, sort_keys=True).encode()
    return ModelIdentity(
        name=info.name,
        dimensions=info.dimensions or 0,
        source=card.get("source"),
        revision=card.get("revision"),
        precision=card.get("precision"),
        runtime=card.get("runtime"),
        digest=hashlib.sha256(content).hexdigest() if digests else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The run in one place.

    Attributes:
        content: JSON values, the same for every run that would write the same parts.
        run: Digest of the content, which every part carries.
    """

    content: Mapping[str, Any]
    run: str


def make_manifest(
    options: CorpusOptions, plan: Plan, identity: ModelIdentity, *, part_rows: int
) -> Manifest:
    """Collect what decides the parts."""
    content: dict[str, Any] = {
        "format": _FORMAT,
        "model": asdict(identity),
        "prompt_name": options.prompt_name,
        "instruction": options.instruction,
        "text_column": options.text_column,
        "columns": None if options.columns is None else list(options.columns),
        "vector_column": options.vector_column,
        "vector_dtype": options.vector_dtype,
        "dimensions": options.dimensions or identity.dimensions,
        "compression": options.compression,
        "on_refused": options.on_refused,
        "rows_per_part": part_rows,
        "sources": [
            {"path": source.path, "bytes": source.size_bytes, "rows": source.rows}
            for source in plan.sources
        ],
    }
    text = json.dumps(content, sort_keys=True)
    return Manifest(content=content, run=hashlib.sha256(text.encode()).hexdigest()[:32])


def begin_run(folder: Place, manifest: Manifest, *, resume: bool) -> None:
    """Write the manifest into an empty folder, or compare it with the one that is there.

    Raises:
        InvalidInput: The folder is not empty and this is no resume, or it holds another run.
    """
    present = files_in(folder)
    if MANIFEST in present:
        if not resume:
            raise InvalidInput(
                f"{folder.url!r} holds a run already; continue it with --resume, or choose "
                "another folder"
            )
        _compare(folder, manifest)
        return
    if any(not name.startswith("_tmp-") for name in present):
        raise InvalidInput(f"{folder.url!r} holds other files; choose a new or an empty folder")
    folder.filesystem.create_dir(folder.path, recursive=True)
    content = {**manifest.content, "run": manifest.run, "lasttoken": metadata.version("lasttoken")}
    write_bytes(folder, MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def read_manifest(folder: Place) -> Mapping[str, Any] | None:
    """What a run in a folder was told; None where none was begun.

    Raises:
        InvalidInput: It cannot be read.
    """
    if MANIFEST not in files_in(folder):
        return None
    try:
        there = json.loads(read_bytes(folder, MANIFEST))
    except ValueError as error:
        raise InvalidInput(f"{folder.inside(MANIFEST)} cannot be read: {error}") from error
    if not isinstance(there, dict):
        raise InvalidInput(f"{folder.inside(MANIFEST)} cannot be read: it holds {_short(there)}")
    return there


def _compare(folder: Place, manifest: Manifest) -> None:
    there = read_manifest(folder) or {}
    different = [
        f"{name} was {_short(there.get(name))}, is {_short(value)}"
        for name, value in manifest.content.items()
        if there.get(name) != value
    ]
    if different:
        raise InvalidInput(
            f"{folder.url!r} holds another run, which this one cannot continue: "
            f"{'; '.join(different)}"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
