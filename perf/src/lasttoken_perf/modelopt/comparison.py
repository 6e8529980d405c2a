"""modelopt's quantisation and ours against our fp32 vectors of the same rows of tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken.local.cache_folder import default_cache_folder
from lasttoken_export._version import __version__
from lasttoken_export.catalogue import CatalogueEntry, prompts_with_tasks
from lasttoken_export.checkpoint import Checkpoint, open_checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality.metrics import cosines
from lasttoken_export.quality.quality_report import QualityFigures, quality_figures
from lasttoken_export.quality.reference_vectors import reference_vectors
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.token_rows import tokenize_set
from lasttoken_export.quantisation.prompted_rows import prompted_rows
from lasttoken_export.quantisation.texts import default_texts
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.hf_folder import write_entry_folder
from lasttoken_perf.modelopt.own_figures import own_figures
from lasttoken_perf.modelopt.quantised_vectors import Quantised, TorchModel, quantise
from lasttoken_perf.modelopt.schemes import (
    DEFAULT_BLOCK,
    MODELOPT,
    OURS,
    OWN_GRAPHS,
    SCHEMES,
    UNQUANTISED,
    ModeloptScheme,
    undivided_widths,
)
from lasttoken_perf.peers.environment import install_peer, peer_variables, stage_package
from lasttoken_perf.results import Row

HIGHEST_DISTANCE = 1e-5
"""Largest 1 - cosine of torch's fp32 vectors to ours; beyond it another model was loaded."""
PAIRS_OF_DECODER, PAIRS_OF_ENCODER = 150, 500
"""Pairs that take about as long."""

_FIGURES = ("mean_cosine", "p1_cosine", "minimum_cosine", "top10_overlap", "ndcg_at_10",
            "ndcg_change", "ndcg_change_error")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison:
    """One model.

    Attributes:
        rows: Of the result.
        workload: What was embedded and calibrated on.
        checks: What was verified of torch's model, and what modelopt quantised.
        versions: Of the torch process.
    """

    rows: list[Row]
    workload: dict[str, Any]
    checks: dict[str, Any]
    versions: Mapping[str, str]


def default_pairs(checkpoint: Checkpoint) -> int:
    """Return how many pairs a model is measured on unless the user says so."""
    is_decoder = isinstance(checkpoint.config, DecoderConfig)
    return PAIRS_OF_DECODER if is_decoder else PAIRS_OF_ENCODER


def compare_model(
    entry: CatalogueEntry,
    open_texts: Callable[[int], RetrievalSet],
    *,
    pairs: int | None,
    cache_folder: Path | None,
    say: Callable[[str], None],
    on_row: Callable[[Row], None] | None = None,
) -> ModelComparison:
    """Measure every scheme of modelopt's and every graph of ours.

    Args:
        entry: The model.
        open_texts: Returns so many pairs of the retrieval set.
        pairs: How many; None for `default_pairs`.
        cache_folder: Where weights and environments are kept; None for the default.
        say: Told what is being done.
        on_row: Told each row as soon as it is measured; None for nobody.

    Raises:
        ToolUnavailable: modelopt's environment cannot be made.
        WrongAnswer: torch's fp32 vectors are not ours, or modelopt left linear layers out.
    """
    python = install_peer("modelopt", cache_folder or default_cache_folder(), say)
    checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder)
    texts = open_texts(pairs or default_pairs(checkpoint))
    calibration = prompted_rows(checkpoint, entry, default_texts(), max_length=entry.max_length)
    with tempfile.TemporaryDirectory(prefix="lasttoken-modelopt.") as name:
        folder = Path(name)
        rows = _token_rows(checkpoint, entry, texts, folder / "tokenizer")
        say(f"embedding {len(rows)} texts with {entry.name} in fp32")
        reference = reference_vectors(
            checkpoint, EmbeddingContract.of(entry), rows, cache_folder=cache_folder
        )
        write_entry_folder(checkpoint, entry, folder / "huggingface", cache_folder=cache_folder)
        model = TorchModel(
            folder=folder / "huggingface",
            pooling=entry.pooling,
            attention=entry.attention,
            calibration=calibration,
            rows=rows,
            python=python,
            variables=peer_variables(stage_package(folder)),
            work_folder=folder,
        )
        say("embedding them with torch in fp32")
        unquantised = quantise(model, UNQUANTISED)
        lowest = check_same_model(unquantised.vectors, reference, entry.name)
        result: list[Row] = []

        def keep(row: Row) -> None:
            result.append(row)
            if on_row is not None:
                on_row(row)

        quantised: dict[str, Any] = {}
        for scheme, found in _all_schemes(model, say):
            figures = quality_figures(found.vectors, reference, queries=len(texts.queries))
            version = found.versions["nvidia-modelopt"]
            keep(_row(entry.name, MODELOPT, version, scheme, figures))
            quantised[scheme.variant] = describe_quantised(found)
            say(_in_short(figures))
    for own in OWN_GRAPHS:
        say(f"measuring our {own.precision}, {own.variant}")
        figures = own_figures(
            checkpoint, entry, own, rows, reference,
            queries=len(texts.queries), cache_folder=cache_folder,
        )  # fmt: skip
        keep(_row(entry.name, OURS, __version__, own, figures))
        say(_in_short(figures))
    widths = unquantised.input_widths
    return ModelComparison(
        rows=result,
        workload={
            "pairs": len(texts.queries),
            "retrieval_set": texts.source,
            "retrieval_set_sha256": texts.sha256,
            "tokens": sum(map(len, rows)),
            "calibration_rows": len(calibration),
            "calibration_tokens": sum(map(len, calibration)),
        },
        checks={
            "lowest_cosine_of_torch_fp32": lowest,
            "linear_layers": len(widths),
            f"inputs_that_{DEFAULT_BLOCK}_does_not_divide": undivided_widths(set(widths.values())),
            "quantised": quantised,
        },
        versions=unquantised.versions,
    )


def check_same_model(
    vectors: NDArray[np.float32], reference: NDArray[np.float32], name: str
) -> float:
    """Return the lowest cosine of torch's fp32 vectors to ours.

    Raises:
        WrongAnswer: It is too low, or there are not as many vectors of the same size.
    """
    if vectors.shape != reference.shape:
        raise WrongAnswer(
            f"{name}: torch gave vectors of the shape {vectors.shape}, ours have {reference.shape}"
        )
    lowest = float(cosines(vectors, reference).min())
    if not 1 - lowest <= HIGHEST_DISTANCE:
        raise WrongAnswer(
            f"{name}: torch's fp32 vectors are not ours, the lowest cosine is {lowest:.7f}; what "
            "modelopt makes of another model says nothing, so nothing is compared"
        )
    return lowest


def describe_quantised(found: Quantised) -> dict[str, Any]:
    """Return what modelopt quantised: an example of each kind, and what is no linear layer."""
    examples: dict[str, str] = {}
    for name, words in found.quantisers.items():
        examples.setdefault(name.rpartition(".")[2], f"{name}: {words}")
    return {"quantisers": len(found.quantisers), "beyond_linear_layers": found.beyond_linears(),
            "examples": examples}  # fmt: skip


def _all_schemes(
    model: TorchModel, say: Callable[[str], None]
) -> Iterator[tuple[ModeloptScheme, Quantised]]:
    """Yield each scheme as it comes and, where that is more than linear layers, these alone."""
    for scheme in SCHEMES:
        say(f"quantising with modelopt: {scheme.variant}")
        found = quantise(model, scheme)
        yield scheme, found
        if found.beyond_linears():
            alone = replace(scheme, linears_only=True)
            say(f"quantising with modelopt: {alone.variant}")
            yield alone, quantise(model, alone)


def _token_rows(
    checkpoint: Checkpoint, entry: CatalogueEntry, texts: RetrievalSet, folder: Path
) -> list[NDArray[np.int32]]:
    folder.mkdir()
    contract = {**entry.tokenizer, "prompts": prompts_with_tasks(entry.tokenizer)}
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json(), encoding="utf-8")
    (folder / "contract.json").write_text(json.dumps(contract), encoding="utf-8")
    return tokenize_set(folder, texts)


def _row(model: str, subject: str, version: str, what: Any, figures: QualityFigures) -> Row:
    row: Row = {
        "model": model,
        "subject": subject,
        "version": version,
        "precision": what.precision,
        "variant": what.variant,
        **{name: getattr(figures, name) for name in _FIGURES},
    }
    if figures.not_finite:
        row["discarded"] = f"{figures.not_finite} vectors hold NaN or infinity"
    return row


def _in_short(figures: QualityFigures) -> str:
    return f"  mean cosine {figures.mean_cosine:.5f}, top-10 overlap {figures.top10_overlap:.3f}"
