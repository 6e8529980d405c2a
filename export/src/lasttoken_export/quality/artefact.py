"""An exported model of a repository: its files, its card, and new figures on that."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lasttoken_export.card import check_card, read_card
from lasttoken_export.errors import CorruptFile, InvalidOption, ModelNotFound, VerificationFailed
from lasttoken_export.model_config import with_parameters
from lasttoken_export.model_files import sha256
from lasttoken_export.model_sources import ENCODER, ENSEMBLE, TOKENIZER


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A model of a repository.

    Attributes:
        repository: The Triton model repository.
        name: Triton name of the ensemble.
        card: Its card.
    """

    repository: Path
    name: str
    card: Mapping[str, Any]

    @property
    def tokenizer_folder(self) -> Path:
        """Version folder of its tokenizer."""
        return self.repository / f"{self.name}{TOKENIZER}" / "1"

    @property
    def graph(self) -> Path:
        """Its ONNX file."""
        return self.repository / f"{self.name}{ENCODER}" / "1" / "encoder.onnx"


def open_artefact(path: Path) -> Artefact:
    """Open ``<repository>/<model>``.

    Raises:
        ModelNotFound: No exported model lies there.
        CorruptFile: Its card is none.
    """
    card_file = path / "1" / "card.json"
    if not card_file.is_file():
        raise ModelNotFound(
            f"{path} is no exported model: {card_file} is not there; name the ensemble's folder, "
            "<repository>/<model>"
        )
    card = read_card(card_file)
    check_card(card, card_file)
    return Artefact(repository=path.resolve().parent, name=path.resolve().name, card=card)


def check_files(artefact: Artefact) -> None:
    """Prove that the files that decide what a model answers are those that its card describes.

    Raises:
        VerificationFailed: One is missing or another.
    """
    digests = artefact.card.get("sha256")
    if not digests:
        raise VerificationFailed(f"the card of {artefact.name} names no files; export it again")
    plan = artefact.card.get("plan") or {}
    if plan and artefact.graph.is_file() and "graph_sha256" not in plan:
        raise VerificationFailed(
            f"the card of {artefact.name} does not name {artefact.graph}, which lies beside the "
            "plan; export it again with --keep-graph"
        )
    for relative, digest in {**digests, **plan.get("graph_sha256", {})}.items():
        path = artefact.repository / relative
        if not path.is_file():
            raise VerificationFailed(f"{path} is missing; export the model again")
        if sha256(path) != digest:
            raise VerificationFailed(
                f"{path} is not the file that was exported: its digest is not the card's; "
                "export the model again"
            )


def check_writable(artefact: Artefact) -> None:
    """Prove that `write_quality` will not fail for want of files or permissions.

    Raises:
        InvalidOption: The files of the ensemble may not be changed.
        CorruptFile: Its configuration is missing, or holds no card.
    """
    folder = _ensemble_folder(artefact)
    for written in (folder, folder / "1"):
        if not os.access(written, os.W_OK | os.X_OK):
            raise InvalidOption(
                f"{written} is read-only for this user, so the figures cannot be written into the "
                "card; leave the card as it is: --no-write"
            )
    _config_with_card(folder, "{}")


def write_quality(artefact: Artefact, quality: Mapping[str, Any]) -> None:
    """Write figures into card.json and into its copy in the ensemble's configuration."""
    folder = _ensemble_folder(artefact)
    card = {**artefact.card, "quality": dict(quality)}
    text = json.dumps(card, ensure_ascii=False, separators=(",", ":"))
    config = _config_with_card(folder, text)
    _replace(folder / "1" / "card.json", json.dumps(card, ensure_ascii=False, indent=1) + "\n")
    _replace(folder / "config.pbtxt", config)


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.rename(path)


def _ensemble_folder(artefact: Artefact) -> Path:
    return artefact.repository / f"{artefact.name}{ENSEMBLE}"


def _config_with_card(folder: Path, card: str) -> str:
    path = folder / "config.pbtxt"
    try:
        return with_parameters(path.read_text(encoding="utf-8"), {"card": card})
    except FileNotFoundError:
        reason = "is missing"
    except (KeyError, UnicodeDecodeError):
        reason = "holds no card"
    raise CorruptFile(
        f"{path} {reason}; export the model again, or leave the card as it is: --no-write"
    )
