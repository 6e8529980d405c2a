"""The model card that travels with an exported model: ``card.json`` of the ensemble."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a user or an auditor asks of a served model.

    Attributes:
        model: Catalogue name, or the name given at export.
        source: Where the weights came from: hub id, package or file name.
        revision: Revision of the source; None where it has none.
        licence: ``{"id": ..., "note": ...}``.
        architecture: Architecture named by the checkpoint.
        precision: One of `precisions.PRECISIONS`.
        runtime: Runtime that the graph was written for.
        pooling: How a text's vector is taken from its tokens.
        dimensions: Elements of a vector.
        max_length: Longest text in tokens.
        prompts: Names of the prompts.
        sha256: Digest of each file that decides what the model answers, by path in the repository.
        checks: Figures of the exporter's verification.
        exporter: Version of the exporter.
    """

    model: str
    source: str
    revision: str | None
    licence: dict[str, str]
    architecture: str
    precision: str
    runtime: str
    pooling: str
    dimensions: int
    max_length: int
    prompts: list[str]
    sha256: dict[str, str]
    checks: dict[str, Any]
    exporter: str

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return asdict(self)
