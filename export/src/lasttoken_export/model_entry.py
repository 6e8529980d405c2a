"""Which entry of the catalogue decides how a model is served."""

from __future__ import annotations

import re

from lasttoken_export.catalogue import CatalogueEntry, load_catalogue
from lasttoken_export.checkpoint import ModelFiles, SafetensorsFolder, TransformersFolder
from lasttoken_export.errors import InvalidOption
from lasttoken_export.folder_contract import entry_of_folder


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
    catalogue = load_catalogue()
    by_hub_id = {
        entry.source["id"]: entry
        for entry in catalogue.values()
        if entry.source.get("kind") == "hub"
    }
    found = catalogue.get(like) if like else catalogue.get(model) or by_hub_id.get(model)
    if found is not None:
        return found
    if like is None and isinstance(checkpoint, SafetensorsFolder | TransformersFolder):
        return entry_of_folder(checkpoint.folder, checkpoint)
    if like is None:
        from lasttoken_export.checkpoint import GgufFile  # seconds, which a folder need not take

        names = checkpoint.names_of_model() if isinstance(checkpoint, GgufFile) else ()
        plain = {_plain(name) for name in names}
        for hub_id, entry in by_hub_id.items():
            if _plain(hub_id.rpartition("/")[2]) in plain:
                return entry
    raise InvalidOption(
        f"{like or model!r} is not in the catalogue; say which model's tokenizer contract and "
        f"prompts it is served by: --like with one of {', '.join(sorted(catalogue))}"
    )


def _plain(name: str) -> str:
    """A model's name without case and punctuation, in which spellings differ."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
