"""The quality check of an export: measured before anything is published, refused when it misses.

Statuses of the card's ``quality``: ``reference`` (fp32 itself), ``measured``, ``not verified`` (too
little memory even for a layer at a time) and ``not measured`` (its runtime does not run here, or
the user said so). Never a silent pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.errors import NotEnoughMemory, QualityGateMissed
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.gate import CHANCE_AT_EXPORT, GateResult, check_gate
from lasttoken_export.quality.measurement import Measurement, measure_graph
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quality.reference_vectors import reference_vectors, vectors_folder
from lasttoken_export.quality.retrieval_set import RetrievalSet
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.token_rows import open_within_memory, tokenize_set

_INVARIANCE_ROWS = 16


def open_texts(precision: str, options: QualityOptions) -> RetrievalSet | None:
    """Return the texts that an export in a precision will be measured on.

    Args:
        precision: fp32 is measured on nothing.
        options: The caller's choices.

    Raises:
        InvalidOption: There is no such set or file.
        SourceUnavailable: They cannot be fetched.
    """
    if precision == "fp32" or not options.pairs:
        return None
    return open_set(options.retrieval_set, pairs=options.pairs, cache_folder=options.cache_folder)


def check_export(
    graph: Path,
    *,
    precision: str,
    target: str,
    texts: RetrievalSet | None,
    checkpoint: Checkpoint,
    contract: EmbeddingContract,
    tokenizer_folder: Path,
    max_batch_tokens: int,
    memory_bytes: int,
    options: QualityOptions,
    on_texts: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a written graph and hold it to its gate.

    Args:
        graph: Path of the ONNX file.
        precision: Decides the gate.
        target: Runtime that will serve it; a graph for another than ONNX Runtime's CPU provider may
            hold operators that cannot be run here, and a plan never is.
        texts: Of `open_texts`.
        checkpoint: What the reference is built from.
        contract: Pooling and attention.
        tokenizer_folder: Version folder of the tokenizer that was written.
        max_batch_tokens: Most tokens that the graph takes in one run.
        memory_bytes: What running the whole graph takes; with less it is run layer by layer.
        options: The caller's choices.
        on_texts: Told how many texts are embedded, of how many.

    Returns:
        The card's ``quality``.

    Raises:
        QualityGateMissed: A figure misses its gate and was not accepted.
    """
    if precision == "fp32":
        return {"status": "reference", "reason": "fp32 is what other precisions are compared with"}
    if texts is None:
        return {"status": "not measured", "reason": "--quality-pairs 0"}
    rows = tokenize_set(tokenizer_folder, texts)
    on_rows = row_counter(2 * len(rows), on_texts)
    opened = partial(
        open_within_memory,
        graph,
        vectors_folder(options.cache_folder),
        memory_bytes=memory_bytes,
        target=target,
    )
    refusal = None if target == "onnxruntime" else why_not_run(opened, target)
    if refusal is not None:
        return {"status": "not measured", "reason": refusal}
    # One of the two graphs is in memory at a time: the reference's goes first.
    try:
        reference = reference_vectors(
            checkpoint, contract, rows, cache_folder=options.cache_folder, on_rows=on_rows
        )
        measurement = measure_graph(
            opened(),
            rows,
            reference,
            queries=len(texts.queries),
            invariance_rows=_INVARIANCE_ROWS,
            max_batch_tokens=max_batch_tokens,
            on_rows=on_rows,
        )
    except NotEnoughMemory as error:  # what calibration and writing took is not lost
        return {"status": "not verified", "reason": str(error)}
    gate = check_gate(
        measurement.figures,
        measurement.invariance,
        PRECISIONS[precision].gate,
        options.accepted,
        ndcg_standard_errors=CHANCE_AT_EXPORT,
    )
    if gate.missed:
        raise QualityGateMissed(
            f"{precision} of {checkpoint.location} misses its gate on {len(texts.queries)} pairs "
            f"of the set {texts.name!r}: "
            f"{'; '.join(gate.missed)}. Nothing was published. Choose another precision, or accept "
            "a figure by its name: --accept-quality NAME=VALUE"
        )
    return {"status": "measured", **describe(texts, rows, measurement, gate, target=target)}


def why_not_run(opened: Callable[[], object], target: str) -> str | None:
    """Say why a graph for another target cannot be run here; None if it can.

    Args:
        opened: Opens it.
        target: Runtime that it is written for, as ``--runtime`` names it.
    """
    try:
        opened()
    except (NoKernel, Fail, InvalidGraph) as error:
        reason = str(error).strip().splitlines()[0]
        return f"ONNX Runtime's CPU provider cannot run a graph for {target}: {reason}"
    return None


def describe(
    texts: RetrievalSet,
    rows: Sequence[NDArray[np.int32]],
    measurement: Measurement,
    gate: GateResult,
    *,
    target: str,
    compared_with: str = "fp32 graph of the same checkpoint",
) -> dict[str, Any]:
    """Return a measurement as the card holds it."""
    invariance = measurement.invariance
    how = ", layer by layer" if measurement.layer_by_layer else ""
    of_plan = "not measured: the graph that it is built from was; a plan needs its GPU"
    return {
        **asdict(measurement.figures),
        **(asdict(invariance) if invariance is not None else {}),
        "gate": asdict(gate),
        "set": {
            "name": texts.name,
            "source": texts.source,
            "pairs": len(texts.queries),
            "tokens": sum(map(len, rows)),
            "sha256": texts.sha256,
        },
        "compared_with": compared_with,
        "measured_on": f"ONNX Runtime {onnxruntime.__version__}, CPU{how}",
        **({"plan": of_plan} if target.startswith("tensorrt") else {}),
    }


def row_counter(
    total: int, on_texts: Callable[[int, int], None] | None
) -> Callable[[int], None] | None:
    """Turn "so many more rows" into "so many of all"."""
    if on_texts is None:
        return None
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_texts(done, total)

    return count
