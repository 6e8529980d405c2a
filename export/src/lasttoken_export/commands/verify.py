"""``lasttoken-export verify``: an exported model against fp32, or against published scores."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lasttoken_export.catalogue import CatalogueEntry, load_catalogue
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import Checkpoint, open_checkpoint
from lasttoken_export.errors import InvalidOption, QualityGateMissed
from lasttoken_export.golden_scores import check_golden_scores
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality.gate import FIGURES, parse_accepted
from lasttoken_export.quality.sets import SETS, open_set
from lasttoken_export.quality.verify_repository import (
    Artefact,
    open_artefact,
    verify_artefact,
    write_quality,
)

VERIFY_PAIRS = 2000
FindEntry = Callable[[str, str | None, Checkpoint], CatalogueEntry]


def verify_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands behind ``verify``."""
    parser = argparse.ArgumentParser(
        prog="lasttoken-export verify",
        description="Compare an exported model with fp32 on held-out text and write the figures "
        "into its card; or, with --golden, with the scores that its authors published. Exit code "
        "1: a gate is missed.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL",
                        help="REPOSITORY/MODEL, the folder of the ensemble; with --golden a "
                        "catalogue name")  # fmt: skip
    parser.add_argument("--set", default="debian", metavar="SET", dest="retrieval_set",
                        help=f"retrieval set: {', '.join(SETS)} or a file of JSON lines with query "
                        "and document (%(default)s)")  # fmt: skip
    parser.add_argument("--pairs", type=int, default=VERIFY_PAIRS, metavar="N",
                        help="pairs of it; 0: all (%(default)s)")  # fmt: skip
    parser.add_argument("--checkpoint", metavar="SOURCE",
                        help="hub id, folder or GGUF file that the model was exported from; not "
                        "needed for one of the catalogue")  # fmt: skip
    parser.add_argument("--like", metavar="NAME", help="as at export")
    parser.add_argument("--reference", type=Path, metavar="REPOSITORY/MODEL",
                        help="an fp32 export of the same model instead")  # fmt: skip
    add_accept_quality(parser)
    parser.add_argument("--no-write", action="store_true", help="leave the card as it is")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--golden", action="store_true",
                        help="compare with the published scores of example texts")  # fmt: skip
    parser.add_argument("--repository", type=Path, metavar="DIR",
                        help="with --golden: Triton model repository that holds it")  # fmt: skip
    parser.add_argument("--name", metavar="TRITON_NAME",
                        help="with --golden: name of the ensemble (the model's)")  # fmt: skip
    return parser


def add_accept_quality(parser: argparse.ArgumentParser) -> None:
    """Add ``--accept-quality``."""
    parser.add_argument(
        "--accept-quality", action="append", default=[], metavar="NAME[=VALUE]",
        help="accept a figure that misses its gate, at any value or up to VALUE, and record that "
        f"on the card; NAME is one of {', '.join(FIGURES)}; repeatable",
    )  # fmt: skip


def run_verify(
    options: argparse.Namespace, find_entry: FindEntry, cache_folder: Path | None
) -> int:
    """Run the command; returns its exit code.

    Raises:
        ExportError: Something is wrong, or a gate is missed.
    """
    if options.golden:
        if options.repository is None:
            raise InvalidOption("--golden needs --repository DIR, which holds the model")
        entry = catalogue_entry(options.model)
        report = check_golden_scores(options.repository, entry, triton_name=options.name)
        print(json.dumps(asdict(report), indent=1))
        return 0
    accepted = parse_accepted(options.accept_quality)
    artefact = open_artefact(Path(options.model))
    reference = _reference(options, artefact, find_entry, cache_folder)
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
    if not options.no_write:
        write_quality(artefact, quality)
    if options.json:
        print(json.dumps(quality))
    else:
        print_quality(artefact.name, quality)
    if missed := quality["gate"]["missed"]:
        raise QualityGateMissed(
            f"{artefact.name} misses the gate of {artefact.card['precision']}: {'; '.join(missed)}"
        )
    return 0


def print_quality(name: str, quality: dict[str, Any]) -> None:
    """Print the card's ``quality`` for a reader."""
    if quality["status"] != "measured":
        stream = sys.stdout if quality["status"] == "reference" else sys.stderr
        loud = "" if quality["status"] == "reference" else "warning: "
        print(f"{loud}{name}: quality {quality['status']}: {quality['reason']}", file=stream)
        return
    texts = quality["set"]
    print(f"{name} against fp32 on {texts['pairs']} pairs of {texts['name']} "
          f"({texts['tokens']} tokens):")  # fmt: skip
    print(f"  cosine: mean {quality['mean_cosine']:.5f}, 1st percentile "
          f"{quality['p1_cosine']:.5f}, minimum {quality['minimum_cosine']:.5f}")  # fmt: skip
    print(f"  top-10 overlap: {quality['top10_overlap']:.3f}")
    print(f"  nDCG@10: {quality['ndcg_at_10']:.4f}, fp32 {quality['ndcg_at_10_reference']:.4f}, "
          f"change {quality['ndcg_change']:+.2%} (standard error "
          f"{quality['ndcg_change_error']:.2%})")  # fmt: skip
    print(f"  NaN or infinity: {quality['not_finite']} vectors")
    print(f"  bitwise the same in every batch: {quality['bitwise_batch_invariant']} "
          f"({quality['rows']} rows, {quality['packings']} packings)")  # fmt: skip
    if "plan" in quality:
        print(f"  of the plan: {quality['plan']}")
    if quality["gate"]["accepted"]:
        print(f"  accepted: {quality['gate']['accepted']}")


@contextmanager
def text_progress() -> Iterator[Callable[[int, int], None]]:
    """Show texts embedded and time left, on a terminal only."""
    with tqdm(unit="text", desc="comparing with fp32", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _reference(
    options: argparse.Namespace,
    artefact: Artefact,
    find_entry: FindEntry,
    cache_folder: Path | None,
) -> tuple[Checkpoint, EmbeddingContract] | Artefact:
    if options.reference is not None:
        return open_artefact(options.reference)
    known = load_catalogue().get(artefact.card["model"])
    if options.checkpoint is None and known is None:
        raise InvalidOption(
            f"{artefact.name} was exported from {artefact.card['source']!r}, which is not in the "
            "catalogue; say where its weights are: --checkpoint SOURCE"
        )
    # The revision of a hub id is on the card: the model is compared with what it was made from.
    from_hub = options.checkpoint is None and known is not None and known.source["kind"] == "hub"
    checkpoint = open_checkpoint(
        options.checkpoint or (known.source if known is not None else ""),
        revision=artefact.card["revision"] if from_hub else None,
        cache_folder=cache_folder,
    )
    entry = known or find_entry(options.checkpoint, options.like, checkpoint)
    contract = EmbeddingContract.of(entry)
    return checkpoint, contract
