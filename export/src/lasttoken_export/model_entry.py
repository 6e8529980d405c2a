"""Which entry of the catalogue decides how a model is served."""

from __future__ import annotations

import re
from dataclasses import replace

from lasttoken_export.catalogue import CatalogueEntry, load_catalogue
from lasttoken_export.checkpoint import ModelFiles, SafetensorsFolder, TransformersFolder
from lasttoken_export.checkpoint.base import name_in
from lasttoken_export.errors import InvalidOption
from lasttoken_export.folder_contract import UNKNOWN_LICENCE, entry_of_folder


def find_entry(model: str, like: str | None, checkpoint: ModelFiles) -> CatalogueEntry:
    """Return the entry that decides how a model is served.

    Args:
        model: Catalogue name, hub id, folder or file.
        like: Name of an entry, or None.
        checkpoint: The opened model; its own files decide where the catalogue has no entry.

    Raises:
        InvalidOption: Nothing says how the model is served.
        AmbiguousModel: Its files do not say it clearly.
    """
    check_like(model, like)
    known = _known(model) or _named_in(checkpoint)
    if like is not None and (known is None or known.name != like):
        # Its contract and prompts; the weights, and what they are called and licensed as, stay.
        return replace(
            load_catalogue()[like],
            weights_of=name_in(checkpoint.location),
            licence=UNKNOWN_LICENCE,
        )
    if known is not None:
        return known
    if isinstance(checkpoint, SafetensorsFolder | TransformersFolder):
        return entry_of_folder(checkpoint.folder, checkpoint)
    raise _not_in_the_catalogue(model)


def check_like(model: str, like: str | None) -> None:
    """Refuse a contract that there is not, or for a model that has one: before it is downloaded.

    Args:
        model: Catalogue name, hub id, folder or file.
        like: Name of an entry, or None.

    Raises:
        InvalidOption: It is refused.
    """
    if like is not None and like not in load_catalogue():
        raise _not_in_the_catalogue(like)
    known = _known(model)
    if like is not None and known is not None and known.name != like:
        raise InvalidOption(
            f"{model!r} is in the catalogue and is served by its own contract; leave out --like"
        )


def _known(model: str) -> CatalogueEntry | None:
    return load_catalogue().get(model) or _by_hub_id().get(model)


def _named_in(checkpoint: ModelFiles) -> CatalogueEntry | None:
    """The entry that a GGUF file's own metadata name."""
    if isinstance(checkpoint, SafetensorsFolder | TransformersFolder):
        return None
    from lasttoken_export.checkpoint import GgufFile  # seconds, which a folder need not take

    names = checkpoint.names_of_model() if isinstance(checkpoint, GgufFile) else ()
    plain = {_plain(name) for name in names}
    for hub_id, entry in _by_hub_id().items():
        if _plain(hub_id.rpartition("/")[2]) in plain:
            return entry
    return None


def _by_hub_id() -> dict[str, CatalogueEntry]:
    return {
        entry.source["id"]: entry
        for entry in load_catalogue().values()
        if entry.source.get("kind") == "hub"
    }


def _not_in_the_catalogue(name: str) -> InvalidOption:
    return InvalidOption(
        f"{name!r} is not in the catalogue; say which model's tokenizer contract and "
        f"prompts it is served by: --like with one of {', '.join(sorted(load_catalogue()))}"
    )


def _plain(name: str) -> str:
    """A model's name without case and punctuation, in which spellings differ."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
