"""Verifies a model of a repository against fp32 and writes the figures into its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_export.card import read_card
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.errors import InvalidOption, ModelNotFound, VerificationFailed
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_config import with_parameters
from lasttoken_export.model_files import sha256
from lasttoken_export.model_sources import ENCODER, ENSEMBLE, TOKENIZER
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.export_check import describe, row_counter, why_not_run
from lasttoken_export.quality.gate import check_gate
from lasttoken_export.quality.measurement import measure_graph
from lasttoken_export.quality.reference_vectors import (
    available_memory_bytes,
    reference_memory_bytes,
    reference_vectors,
)
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.token_rows import embed_rows, open_graph, tokenize_set

_INVARIANCE_ROWS = 60


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


def verify_artefact(
    artefact: Artefact,
    texts: RetrievalSet,
    reference: tuple[Checkpoint, EmbeddingContract] | Artefact,
    *,
    accepted: Mapping[str, float | None],
    cache_folder: Path | None = None,
    on_texts: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Compare a model with fp32 on a retrieval set.

    Args:
        artefact: The model.
        texts: The set.
        reference: The checkpoint that it was made from, with pooling and attention; or an fp32
            export of the same model.
        accepted: Bounds that replace the gate's, beside those accepted at export.
        cache_folder: Where the reference's vectors are kept; None for the default.
        on_texts: Told how many texts are embedded, of how many.

    Returns:
        The card's ``quality``; ``gate.missed`` lists what failed.

    Raises:
        VerificationFailed: The files are not those of the card, the reference is not of the same
            model, or there is too little memory.
        InvalidOption: The artefact holds no graph that this machine can run.
    """
    if not artefact.graph.is_file():
        raise InvalidOption(
            f"{artefact.name} holds no encoder.onnx: a TensorRT plan runs on its own GPU only and "
            "cannot be measured here; export it with --keep-graph to verify the graph that it is "
            "built of"
        )
    check_files(artefact)
    target = artefact.card["runtime"]
    refusal = why_not_run(artefact.graph, target) if target.startswith("tensorrt") else None
    if refusal is not None:
        raise InvalidOption(f"{artefact.name} cannot be verified on this machine: {refusal}")
    _check_same_tokenizer(artefact, reference)
    _check_memory(artefact, reference)
    rows = tokenize_set(artefact.tokenizer_folder, texts)
    on_rows = row_counter(2 * len(rows), on_texts)
    vectors: NDArray[np.float32]
    if isinstance(reference, Artefact):
        vectors = embed_rows(open_graph(reference.graph), rows, on_rows=on_rows)
    else:
        checkpoint, contract = reference
        vectors = reference_vectors(
            checkpoint, contract, rows, cache_folder=cache_folder, on_rows=on_rows
        )
    measurement = measure_graph(
        open_graph(artefact.graph, target=target),
        rows,
        vectors,
        queries=len(texts.queries),
        invariance_rows=_INVARIANCE_ROWS,
        on_rows=on_rows,
    )
    earlier = ((artefact.card.get("quality") or {}).get("gate") or {}).get("accepted", {})
    gate = check_gate(
        measurement.figures,
        measurement.invariance,
        PRECISIONS[artefact.card["precision"]].gate,
        {**earlier, **accepted},
    )
    quality = describe(texts, rows, measurement, gate, target=target)
    return {"status": "measured", **quality}


def write_quality(artefact: Artefact, quality: Mapping[str, Any]) -> None:
    """Write figures into card.json and into its copy in the ensemble's configuration."""
    folder = artefact.repository / f"{artefact.name}{ENSEMBLE}"
    card = {**artefact.card, "quality": dict(quality)}
    text = json.dumps(card, ensure_ascii=False, separators=(",", ":"))
    config = with_parameters((folder / "config.pbtxt").read_text(encoding="utf-8"), {"card": text})
    _replace(folder / "1" / "card.json", json.dumps(card, ensure_ascii=False, indent=1) + "\n")
    _replace(folder / "config.pbtxt", config)


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.rename(path)


def _check_same_tokenizer(
    artefact: Artefact, reference: tuple[Checkpoint, EmbeddingContract] | Artefact
) -> None:
    own = (artefact.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    if isinstance(reference, Artefact):
        if reference.card["precision"] != "fp32":
            raise InvalidOption(
                f"the reference {reference.name} is {reference.card['precision']}; give an fp32 one"
            )
        check_files(reference)
        name = reference.name
        other = (reference.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    else:
        name, other = reference[0].location, reference[0].tokenizer_json()
    if own != other:
        raise VerificationFailed(
            f"{artefact.name} and {name} have different tokenizers: they are not the same model"
        )


def _check_memory(
    artefact: Artefact, reference: tuple[Checkpoint, EmbeddingContract] | Artefact
) -> None:
    needed = 3 * _data_bytes(artefact)
    if isinstance(reference, Artefact):
        needed = max(needed, 3 * _data_bytes(reference))
    else:
        needed = max(needed, reference_memory_bytes(reference[0]))
    available = available_memory_bytes()
    if needed > available:
        raise VerificationFailed(
            f"not verified: comparing {artefact.name} with fp32 needs {needed / 1e9:.0f} GB of "
            f"memory and {available / 1e9:.0f} GB are available; verify it on a larger machine"
        )


def _data_bytes(artefact: Artefact) -> int:
    data = artefact.graph.with_name(f"{artefact.graph.name}.data")
    return data.stat().st_size if data.is_file() else 0
