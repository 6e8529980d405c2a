"""Figures of our own graphs, which need not be exported to a repository for it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export._version import __version__
from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quality.measurement import measure_graph
from lasttoken_export.quality.quality_report import QualityFigures
from lasttoken_export.quality.token_rows import open_graph
from lasttoken_export.quantisation.calibrate_entry import calibrate_entry
from lasttoken_export.quantisation.calibration_options import CalibrationOptions
from lasttoken_perf.modelopt.schemes import OwnGraph

_BATCH_TOKENS = 2048
"""Most tokens that the graph takes in one run; no row is longer."""


def own_figures(
    checkpoint: Checkpoint,
    entry: CatalogueEntry,
    own: OwnGraph,
    rows: Sequence[NDArray[np.int32]],
    reference: NDArray[np.float32],
    *,
    queries: int,
    cache_folder: Path | None,
) -> QualityFigures:
    """Calibrate, write and measure one of our graphs on ONNX Runtime's CPU provider.

    Args:
        checkpoint: The weights.
        entry: Their contract.
        own: Which graph.
        rows: One ``[length] int32`` a text, queries first.
        reference: ``[texts, dim]`` of our fp32 graph.
        queries: How many of the texts are queries.
        cache_folder: Where calibrations are kept; None for the default.
    """
    calibration = calibrate_entry(
        checkpoint,
        entry,
        precision=own.precision,
        target=own.target,
        options=CalibrationOptions(cache_folder=cache_folder),
    )
    graph = model_graph(
        checkpoint,
        precision=own.precision,
        target=own.target,
        safe=entry.precisions,
        calibration=calibration,
        contract=EmbeddingContract.of(entry),
    ).build(rotary_positions=_BATCH_TOKENS, version=__version__)
    with tempfile.TemporaryDirectory(prefix="lasttoken-modelopt.") as folder:
        file = Path(folder) / "encoder.onnx"
        ir.save(graph, file, external_data=f"{file.name}.data")
        return measure_graph(
            open_graph(file, target=own.target),
            rows,
            reference,
            queries=queries,
            invariance_rows=0,
            max_batch_tokens=_BATCH_TOKENS,
        ).figures
