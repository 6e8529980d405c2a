"""`lasttoken models`: what a server serves, or what the exporter knows."""

from __future__ import annotations

import argparse
import json

from lasttoken.catalogue_listing import catalogue_lines
from lasttoken.client import EmbeddingClient
from lasttoken.commands.command import Command, add_server_arguments, print_all


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
    with EmbeddingClient(arguments.url) as client:
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
    heading = f"{'NAME':{width}}  VERSION  DIMENSIONS  READY  PRECISION  REVISION      LICENCE"
    print_all([heading] if models else [])
    for m in models:
        card = m.card or {}
        licence = (card.get("licence") or {}).get("id", "-")
        revision = str(card.get("revision") or "-").removeprefix("sha256:")[:12]
        ready = "yes" if m.ready else "no"
        print(
            f"{m.name:{width}}  {m.version:7}  {m.dimensions or '-':>10}  {ready:5}  "
            f"{card.get('precision', '-'):9}  {revision:12}  {licence}"
        )
    return 0


MODELS = Command(
    name="models",
    summary="list the text-embedding models of a running server, or of the catalogue",
    add_arguments=_add_models_arguments,
    run=_models,
)
