"""The scores that a model's authors publish for example texts, computed anew from an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from lasttoken_export.card import read_card
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.errors import InvalidOption, ModelNotFound, VerificationFailed
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER, SOURCE_MODEL, TOKENIZER, model_sources
from lasttoken_export.server_modules import server_module

TOLERANCES = {"fp32": 0.05, "fp16": 0.5, "bf16": 2.0}
"""Largest difference of a score (cosine times 100) by precision; published ones are of fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenReport:
    """How close the export comes to what was published.

    Attributes:
        scores: ``[queries, passages]`` cosines times 100.
        published: The same as published.
        largest_difference: Between the two.
        tolerance: What is allowed.
        source: Where they were published.
    """

    scores: list[list[float]]
    published: list[list[float]]
    largest_difference: float
    tolerance: float
    source: str


def check_golden_scores(
    repository: Path, entry: CatalogueEntry, *, triton_name: str | None = None
) -> GoldenReport:
    """Embed the example texts as the server does and compare their scores.

    Args:
        repository: Triton model repository that holds the export.
        entry: Knows the texts and the scores.
        triton_name: Name of the ensemble there; None for the entry's.

    Raises:
        InvalidOption: No scores are published for the model, or none for its precision.
        ModelNotFound: The repository does not hold it.
        VerificationFailed: A score is off by more than the tolerance of the precision.
    """
    golden = entry.golden_scores
    if golden is None:
        raise InvalidOption(f"the catalogue holds no published scores for {entry.name}")
    name = triton_name or entry.triton_name
    card_file = repository / name / "1" / "card.json"
    if not card_file.is_file():
        raise ModelNotFound(f"{repository} holds no model {name!r}; export it there first")
    precision = str(read_card(card_file).get("precision"))
    if precision not in TOLERANCES:
        raise InvalidOption(
            f"{name} is {precision}: published scores are compared in {', '.join(TOLERANCES)}; "
            f"compare it with fp32 instead: lasttoken-export verify {repository / name}"
        )
    queries = _embed(repository, name, golden["queries"], golden["query_prompt_name"])
    passages = _embed(repository, name, golden["passages"], None)
    # Scores published in half precision, or of few digits, are themselves off by a little.
    tolerance = max(TOLERANCES[precision], float(golden.get("uncertainty", 0.0)))
    return compare_scores(queries, passages, golden, tolerance=tolerance)


def compare_scores(
    queries: NDArray[np.float32],
    passages: NDArray[np.float32],
    golden: Mapping[str, Any],
    *,
    tolerance: float,
) -> GoldenReport:
    """Compare the cosines of unit vectors with the published scores.

    Args:
        queries: ``[queries, dim]``.
        passages: ``[passages, dim]``.
        golden: ``scores`` and ``source`` of the catalogue.
        tolerance: Largest difference allowed, cosine times 100.

    Raises:
        VerificationFailed: A score is off by more, or there are not as many.
    """
    scores = 100 * queries.astype(np.float64) @ passages.astype(np.float64).T
    published = np.asarray(golden["scores"], np.float64)
    if scores.shape != published.shape:
        raise VerificationFailed(f"{published.shape} scores were published, not {scores.shape}")
    report = GoldenReport(
        scores=scores.tolist(),
        published=published.tolist(),
        largest_difference=float(np.abs(scores - published).max()),
        tolerance=tolerance,
        source=str(golden["source"]),
    )
    if not report.largest_difference <= tolerance:
        raise VerificationFailed(
            f"scores {np.round(scores, 3).tolist()} are up to {report.largest_difference:.3f} off "
            f"the published {published.round(3).tolist()}; {tolerance} is allowed. The tokens, the "
            "prompt or the weights are not those of the model's authors"
        )
    return report


def _embed(
    repository: Path, name: str, texts: list[str], prompt_name: str | None
) -> NDArray[np.float32]:
    """Tokenize and encode with the modules that serve."""
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(
        repository / f"{name}{TOKENIZER}" / "1"
    )
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    prompted = [
        apply_prompt(tokenizer.contract, text, prompt_name=prompt_name, instruction=None)
        for text in texts
    ]
    rows = [row.ids for row in tokenizer.encode(prompted)]
    engine = _open_engine(repository, name)
    vectors: NDArray[np.float32] = engine.encode(
        np.concatenate(rows), np.array([len(row) for row in rows], np.int32)
    )
    return vectors


def _open_engine(repository: Path, name: str) -> Any:
    encoder = repository / f"{name}{ENCODER}"
    config = parse_config((encoder / "config.pbtxt").read_text(encoding="utf-8"))
    native = config.backend != "python"
    if native and not (encoder / "1" / "encoder.onnx").is_file():
        raise InvalidOption(f"{name} is a plan for Triton's own backend, which nothing else runs")
    try:
        if native:
            return server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine(
                encoder / "1" / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=0
            )
        # One exported before lacks what has come since: it has its own, older copy of the server.
        source = model_sources() / f"{SOURCE_MODEL}{ENCODER}" / "config.pbtxt"
        known = parse_config(source.read_text(encoding="utf-8")).parameters
        parameters = {**known, **config.parameters}
        settings = server_module(ENCODER, "encoder_settings").EncoderSettings.from_parameters(
            {key: {"string_value": value.string_value} for key, value in parameters.items()}
        )
        return server_module(ENCODER, "engine_choice").open_engine(encoder / "1", settings)
    except (RuntimeError, NoKernel, Fail, InvalidGraph) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidOption(f"{name} cannot be run on this machine: {reason}") from None
