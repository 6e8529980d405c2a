"""The model card that travels with an exported model: ``card.json`` of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lasttoken_export.errors import CorruptFile
from lasttoken_export.json_file import read_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a user or an auditor asks of a served model.

    Attributes:
        model: Catalogue name, or the name given at export.
        source: Where the weights came from: hub id, package or file name.
        revision: Revision of the source; None where it has none.
        licence: ``{"id": ..., "note": ...}``.
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
    source: str
    revision: str | None
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
    card = read_object(path)
    digests = card.get("sha256", {})
    if not isinstance(digests, dict) or not all(
        isinstance(digest, str) and _stays_within(name) for name, digest in digests.items()
    ):
        raise CorruptFile(
            f"{path} is no card: sha256 is not digests by paths within the repository; export the "
            "model again"
        )
    return card


def _stays_within(name: str) -> bool:
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or not path.parts
    return not leads_out and name.isprintable()
