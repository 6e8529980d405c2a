"""Verifies a model of a repository against fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.checkpoint.weights_digest import weights_digest
from lasttoken_export.errors import InvalidOption, VerificationFailed
from lasttoken_export.graph.graph_memory import memory_to_run
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.artefact import Artefact, check_files, open_artefact, write_quality
from lasttoken_export.quality.export_check import describe, row_counter, why_not_run
from lasttoken_export.quality.gate import check_gate
from lasttoken_export.quality.measurement import measure_graph
from lasttoken_export.quality.reference_vectors import reference_vectors, vectors_folder
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.token_rows import embed_rows, open_within_memory, tokenize_set

__all__ = ["Artefact", "check_files", "open_artefact", "verify_artefact", "write_quality"]

_INVARIANCE_ROWS = 60


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
        VerificationFailed: The files are not those of the card, or the reference is not of the same
            model.
        NotEnoughMemory: There is too little even for a layer at a time.
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
    own = target == "onnxruntime-cpu"
    opened = partial(_open, artefact, cache_folder, target=target)
    refusal = None if own else why_not_run(opened, target)
    if refusal is not None:
        raise InvalidOption(f"{artefact.name} cannot be verified on this machine: {refusal}")
    _check_same_tokenizer(artefact, reference)
    compared_with = _check_same_weights(artefact, reference)
    rows = tokenize_set(artefact.tokenizer_folder, texts)
    on_rows = row_counter(2 * len(rows), on_texts)
    vectors: NDArray[np.float32]
    if isinstance(reference, Artefact):
        vectors = embed_rows(_open(reference, cache_folder), rows, on_rows=on_rows)
    else:
        checkpoint, contract = reference
        vectors = reference_vectors(
            checkpoint, contract, rows, cache_folder=cache_folder, on_rows=on_rows
        )
    measurement = measure_graph(
        opened(),
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
    quality = describe(texts, rows, measurement, gate, target=target, compared_with=compared_with)
    return {"status": "measured", **quality}


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


def _check_same_weights(
    artefact: Artefact, reference: tuple[Checkpoint, EmbeddingContract] | Artefact
) -> str:
    """Refuse a reference made of other weights; return what the card says it is compared with."""
    own = artefact.card.get("weights_sha256")
    if isinstance(reference, Artefact):
        name, other = reference.name, reference.card.get("weights_sha256")
    else:
        name, other = reference[0].location, weights_digest(reference[0])
    if own is None or other is None:
        return f"fp32 graph of {name}; the card has no digest of the weights that were exported"
    if own != other:
        raise VerificationFailed(
            f"{artefact.name} was exported from other weights than those of {name}: their digest "
            f"is not the card's; compare it with {artefact.card['source']!r}, which it was made of"
        )
    return "fp32 graph of the same checkpoint"


def _open(artefact: Artefact, cache_folder: Path | None, *, target: str = "onnxruntime") -> Any:
    """Open an artefact's graph; layer by layer where it does not fit into memory."""
    return open_within_memory(
        artefact.graph,
        vectors_folder(cache_folder),
        memory_bytes=memory_to_run(ir.load(artefact.graph), target=target),
        target=target,
    )
