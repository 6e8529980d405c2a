"""The model card that travels with an exported model: ``card.json`` of the ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lasttoken_export.errors import CorruptFile
from lasttoken_export.export_options import RUNTIMES
from lasttoken_export.json_file import read_object
from lasttoken_export.precisions import PRECISIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a user or an auditor asks of a served model.

    Attributes:
        model: Catalogue name; that of the folder, the file or the hub id where the weights are not
            those of the catalogue's model.
        like: Catalogue entry whose tokenizer contract and prompts other weights are served by;
            None where the model has its own.
        source: Where the weights came from: hub id, package or file name.
        revision: Revision of the source; None where it has none.
        weights_sha256: Digest of names, shapes and a sample of the weights that were read
            (`checkpoint.weights_digest`); None where none was made.
        licence: ``{"id": ..., "note": ...}``, of the weights.
        architecture: Architecture named by the checkpoint.
        graph_form: ``packed``, or ``padded`` where the architecture has no packed graph.
        precision: One of `precisions.PRECISIONS`.
        calibration: Scheme, digest and number of the texts that its scales come from; None for a
            precision without.
        runtime: Runtime that the graph was written for.
        pooling: How a text's vector is taken from its tokens.
        dimensions: Elements of a vector.
        matryoshka: Shorter sizes that the model was trained for: ``{"dimensions": [...]}`` or
            ``{"minimum": n}``; None where it was trained for its full size only.
        max_length: Longest text in tokens.
        opening_ids: Special tokens in front of every text.
        closing_ids: Special tokens behind every text; with last-token pooling the vector is theirs.
        vocab_size: Token ids are below this.
        prompts: Names of the prompts.
        default_prompt_name: Prompt of a request that names none; None for the bare text.
        sha256: Digest of each file that decides what the model answers, by path in the repository.
        checks: Figures of the exporter's verification.
        plan: What the TensorRT plan was built by and for; None where the graph itself is served.
        quality: Figures against fp32 on held-out text, and the gate they were held to; ``status``
            says whether they were measured.
        exporter: Version of the exporter.
    """

    model: str
    like: str | None = None
    source: str
    revision: str | None
    weights_sha256: str | None = None
    licence: dict[str, str]
    architecture: str
    graph_form: str
    precision: str
    calibration: Mapping[str, Any] | None = None
    runtime: str
    pooling: str
    dimensions: int
    matryoshka: Mapping[str, Any] | None
    max_length: int
    opening_ids: list[int]
    closing_ids: list[int]
    vocab_size: int
    prompts: list[str]
    default_prompt_name: str | None
    sha256: dict[str, str]
    checks: dict[str, Any]
    plan: dict[str, Any] | None
    quality: dict[str, Any]
    exporter: str

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return asdict(self)


def read_card(path: Path) -> dict[str, Any]:
    """Read the card.json of an exported model.

    Raises:
        CorruptFile: It is no JSON object, or ``sha256`` is not digests by paths that stay within
            the repository.
        FileNotFoundError: There is none.
    """
    card = read_object(path, remedy=_REMEDY)
    if not _are_digests(card.get("sha256", {})):
        raise _no_card(path, "sha256 is not digests by paths within the repository")
    return card


def check_card(card: Mapping[str, Any], path: Path) -> None:
    """Prove that a card says what a verification goes by; what it says is not looked into.

    Args:
        card: Of `read_card`.
        path: Where it was read.

    Raises:
        CorruptFile: Something is missing, or of another type.
    """
    for name, is_known in _FIELDS.items():
        if not is_known(card.get(name)):
            has = repr(card[name])[:_LONGEST] if name in card else "missing"
            raise _no_card(path, f"{name} is {has}")
    gate = (card.get("quality") or {}).get("gate")
    accepted = gate.get("accepted", {}) if isinstance(gate, dict) else {}
    numbers = isinstance(accepted, dict) and all(map(_is_number_or_none, accepted.values()))
    if not _is_object_or_none(gate) or not numbers:
        raise _no_card(path, f"the gate of quality is {repr(gate)[:_LONGEST]}")
    if not _are_digests((card.get("plan") or {}).get("graph_sha256", {})):
        raise _no_card(path, "graph_sha256 of plan is not digests by paths within the repository")


_REMEDY = "export the model again"
_LONGEST = 60


def _no_card(path: Path, reason: str) -> CorruptFile:
    return CorruptFile(f"{path} is no card: {reason}; {_REMEDY}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_object_or_none(value: object) -> bool:
    return value is None or isinstance(value, dict)


def _is_number_or_none(value: object) -> bool:
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "like": _is_text_or_none,
    "source": _is_text,
    "revision": _is_text_or_none,
    "weights_sha256": _is_text_or_none,
    "precision": lambda value: isinstance(value, str) and value in PRECISIONS,
    "runtime": lambda value: value in RUNTIMES.values(),
    "plan": _is_object_or_none,
    "quality": _is_object_or_none,
}
"""What a verification reads of a card, and whether a value will do; None for a missing one."""


def _are_digests(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(digest, str) and _stays_within(name) for name, digest in value.items()
    )


def _stays_within(name: str) -> bool:
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or not path.parts
    return not leads_out and name.isprintable()
