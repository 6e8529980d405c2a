"""`lasttoken models`: what a server serves, or what the exporter knows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from lasttoken.catalogue_listing import catalogue_lines
from lasttoken.client import EmbeddingClient
from lasttoken.commands.command import Command, add_server_arguments, print_all
from lasttoken.commands.connection import connection_options


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_arguments(parser)
    parser.add_argument(
        "--catalogue", action="store_true",
        help="list what lasttoken-export knows to export instead; asks no server",
    )  # fmt: skip


def _models(arguments: argparse.Namespace) -> int:
    if arguments.catalogue:
        print_all(catalogue_lines(as_json=arguments.json))
        return 0
    with EmbeddingClient(**connection_options(arguments)) as client:
        models = client.list_models(timeout_s=arguments.timeout)
    rows = [
        {
            "name": m.name,
            "version": m.version,
            "dimensions": m.dimensions,
            "ready": m.ready,
            "card": m.card,
        }
        for m in models
    ]
    if arguments.json:
        print_all(json.dumps(row) for row in rows)
        return 0
    width = max([4, *(len(model.name) for model in models)])
    heading = (
        f"{'NAME':{width}}  VERSION  DIMENSIONS  READY  PRECISION     PARITY         REVISION      "
        "LICENCE"
    )
    print_all([heading] if models else [])
    for m in models:
        card = m.card or {}
        licence = (card.get("licence") or {}).get("id", "-")
        revision = str(card.get("revision") or "-").removeprefix("sha256:")[:12]
        ready = "yes" if m.ready else "no"
        print(
            f"{m.name:{width}}  {m.version:7}  {m.dimensions or '-':>10}  {ready:5}  "
            f"{card.get('precision', '-'):12}  {parity(card):13}  {revision:12}  {licence}"
        )
    return 0


def parity(card: Mapping[str, Any]) -> str:
    """How the exporter compared the model with its original, in a word, from its card.

    Returns:
        ``cosine 0.99712``: mean cosine to fp32 on held-out text; ``cosine 1.00000``, likewise to
        transformers; ``exact weights``: fp32, written weights compared bit for bit; or the card's
        status, such as ``not measured``.
    """
    checks, quality = card.get("checks") or {}, card.get("quality") or {}
    if "mean_cosine" in quality:
        return f"cosine {quality['mean_cosine']:.5f}"
    if "parity_lowest_cosine" in checks:
        return f"cosine {checks['parity_lowest_cosine']:.5f}"
    if quality.get("status") == "reference" and checks.get("weight_bytes_compared"):
        return "exact weights"
    return str(quality.get("status", "-"))


MODELS = Command(
    name="models",
    summary="list the text-embedding models of a running server, or of the catalogue",
    add_arguments=_add_models_arguments,
    run=_models,
)
