"""``lasttoken-export verify``: an exported model against fp32, or against published scores."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lasttoken_export.catalogue import CatalogueEntry, load_catalogue
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import Checkpoint, comes_from, open_checkpoint
from lasttoken_export.commands.quality_arguments import text_progress
from lasttoken_export.commands.quality_output import print_quality
from lasttoken_export.commands.verify_arguments import GOLDEN_OPTIONS, verify_parser
from lasttoken_export.errors import InvalidOption, QualityGateMissed
from lasttoken_export.golden_scores import check_golden_scores
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_entry import find_entry
from lasttoken_export.published_config import check_published_config
from lasttoken_export.quality.artefact import (
    Artefact,
    check_writable,
    open_artefact,
    write_quality,
)
from lasttoken_export.quality.gate import check_accepted, parse_accepted
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import verify_artefact


def run_verify(options: argparse.Namespace, cache_folder: Path | None) -> int:
    """Run the command; returns its exit code.

    Raises:
        ExportError: Something is wrong, or a gate is missed.
    """
    _check_options(options)
    if options.golden:
        if options.repository is None:
            raise InvalidOption("--golden needs --repository DIR, which holds the model")
        entry = catalogue_entry(options.model)
        report = check_golden_scores(options.repository, entry, triton_name=options.name)
        print(json.dumps(asdict(report), indent=1))
        return 0
    accepted = parse_accepted(options.accept_quality)
    artefact = open_artefact(Path(options.model))
    check_accepted(accepted, artefact.card["precision"])
    if not options.no_write:
        check_writable(artefact)
    reference = _reference(options, artefact, cache_folder)
    texts = open_set(options.retrieval_set, pairs=options.pairs or None, cache_folder=cache_folder)
    with text_progress() as on_texts:
        quality = verify_artefact(
            artefact,
            texts,
            reference,
            accepted=accepted,
            cache_folder=cache_folder,
            on_texts=on_texts,
        )
    if options.json:
        print(json.dumps(quality), flush=True)
    else:
        print_quality(artefact.name, quality)
    if not options.no_write:  # behind the figures, which are not to be lost
        write_quality(artefact, quality)
    if missed := quality["gate"]["missed"]:
        raise QualityGateMissed(
            f"{artefact.name} misses the gate of {artefact.card['precision']}: {'; '.join(missed)}"
        )
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what would do nothing.

    Raises:
        InvalidOption: An option is of the other kind of comparison.
    """
    chosen = {name for name, value in vars(options).items()
              if value != verify_parser().get_default(name)}  # fmt: skip
    if options.golden:
        ignored, reason = chosen - GOLDEN_OPTIONS - {"model", "golden"}, "goes without --golden"
    elif options.reference is not None and chosen & {"checkpoint", "like"}:
        ignored, reason = chosen & {"checkpoint", "like"}, "is in the place of --reference"
    else:
        ignored, reason = chosen & GOLDEN_OPTIONS, "goes with --golden"
    if ignored:
        name = min(ignored).replace("retrieval_set", "set").replace("_", "-")
        raise InvalidOption(f"--{name} {reason}; leave one of them out")


def _reference(
    options: argparse.Namespace, artefact: Artefact, cache_folder: Path | None
) -> tuple[Checkpoint, EmbeddingContract] | Artefact:
    if options.reference is not None:
        return open_artefact(options.reference)
    card = artefact.card
    like = card.get("like")
    if like is not None and options.like not in (None, like):
        raise InvalidOption(
            f"{artefact.name} was exported --like {like}; leave out --like {options.like}"
        )
    own = _entry_of_the_weights(card)
    if options.checkpoint is None and own is None:
        raise InvalidOption(
            f"{artefact.name} was exported from {card['source']!r}, which is not in the catalogue; "
            "say where its weights are: --checkpoint SOURCE"
        )
    # The revision of a hub id is on the card: the model is compared with what it was made from.
    from_hub = options.checkpoint is None and own is not None and own.source["kind"] == "hub"
    checkpoint = open_checkpoint(
        options.checkpoint or (own.source if own is not None else ""),
        revision=card["revision"] if from_hub else None,
        cache_folder=cache_folder,
    )
    if own is None and like is not None:
        own = catalogue_entry(like)
    elif own is None and "like" not in card:  # of an exporter that put the entry's name there
        own = load_catalogue().get(card["model"])
    entry = own or find_entry(options.checkpoint, options.like, checkpoint)
    check_published_config(checkpoint, entry)
    return checkpoint, EmbeddingContract.of(entry)


def _entry_of_the_weights(card: Mapping[str, Any]) -> CatalogueEntry | None:
    """The entry of the catalogue whose own weights a model was exported from."""
    entry = load_catalogue().get(card["model"])
    if entry is None or card.get("like") is not None:
        return None
    return entry if comes_from(card["source"], card["revision"], entry.source) else None
