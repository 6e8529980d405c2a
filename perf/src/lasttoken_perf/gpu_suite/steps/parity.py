"""transformers' MistralModel against ours, on the small shapes and on the one that is measured.

Ours are the packed torch model and, on shapes below SFR's, the exporter's graph on ONNX Runtime; at
SFR's size the graph has a step of its own. The reference computes in float32 on the very values of
the suite's precision, one text at a time.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID251 - the reference
from numpy.typing import NDArray

from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.gpu_suite.derived import PRACTICAL
from lasttoken_perf.gpu_suite.graph_file import save_packed_graph
from lasttoken_perf.gpu_suite.measuring import device_of, packed_batches
from lasttoken_perf.gpu_suite.packed_torch import PackedTorchModel
from lasttoken_perf.gpu_suite.placement import (
    has_provider,
    nodes_by_provider,
    open_engine_on,
)
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.reference import (
    Agreement,
    agreement,
    save_reference,
    separation,
)
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_account, shapes_up_to
from lasttoken_perf.gpu_suite.step_report import StepReport
from lasttoken_perf.gpu_suite.token_rows import CORPORA, compared_rows, make_rows, pack
from lasttoken_perf.gpu_suite.transformers_model import embed_alone, load_mistral
from lasttoken_perf.results import Row

Vectors = NDArray[np.float32]
Encode = Callable[[NDArray[np.int32], NDArray[np.int32]], Vectors]
_Ours = tuple[str, str, Callable[[], tuple[str, Encode]]]
"""Subject, precision, and what opens it: returns the variant and ``encode``."""
_CPU_EXPORTS = ("tiny", "small")
"""Shapes whose graph is small enough to be run here on ONNX Runtime, on the CPU too."""


def run(settings: SuiteSettings) -> StepReport:
    """Compare on every shape up to the one that is measured, whose reference is kept.

    Raises:
        WrongAnswer: Vectors are not those of transformers; the reference is kept all the same.
    """
    rows: list[Row] = []
    checks: dict[str, Any] = {}
    wrong: list[WrongAnswer] = []
    for shape in shapes_up_to(settings.shape):
        at_shape = replace(settings, shape=shape)
        reference, precision = _reference(at_shape)
        if shape == settings.shape:
            save_reference(settings, reference)
        checks[shape] = {
            "reference_precision": precision,
            "texts": {name: len(vectors) for name, vectors in reference.items()},
            "cosine_of_different_texts": {
                name: separation(vectors) for name, vectors in reference.items()
            },
        }
        base: Row = {"device": device_of(settings), "model": shape, "load": "parity"}
        for subject, computed_in, open_ours in _ours(at_shape, checks[shape]):
            try:
                variant, encode = open_ours()
                agreements = {
                    name: _compare(encode, at_shape, name, wanted, computed_in, subject)
                    for name, wanted in reference.items()
                }
            except WrongAnswer as error:  # raised when the later steps have their reference
                wrong.append(error)
                continue
            except Exception as error:  # noqa: BLE001 - nor does what cannot run cost them that
                who, reason = f"{subject} in {computed_in} ({shape})", str(error).splitlines()
                rows.append({"subject": who, "discarded": (reason or [repr(error)])[0]})
                continue
            rows += [
                {**base, "subject": subject, "variant": variant, "precision": computed_in,
                 "distribution": name, **found.fields()}
                for name, found in agreements.items()
            ]  # fmt: skip
        _release()
    if wrong:
        raise wrong[0]
    return StepReport(rows=rows, checks=checks)


def _reference(settings: SuiteSettings) -> tuple[dict[str, Vectors], str]:
    """Embed the compared rows with transformers, in float32 where that fits."""
    parameters = shape_account(settings.shape).parameters
    precision = "fp32"
    if settings.device == "cuda" and torch.cuda.mem_get_info()[0] < 1.2 * 4 * parameters:
        precision = settings.precision
    # TF32 would be no reference; it is off unless something switched it on.
    torch.backends.cuda.matmul.allow_tf32 = False
    model = load_mistral(
        _weights(settings), shape=settings.shape, device=settings.device,
        dtype={"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision],
    )  # fmt: skip
    vectors = {
        name: embed_alone(model, compared_rows(make_rows(settings, name)).rows) for name in CORPORA
    }
    del model
    _release()
    return vectors, precision


def _ours(settings: SuiteSettings, checks: dict[str, Any]) -> Iterator[_Ours]:
    """Yield subject, precision and how to open it of everything that runs at this shape."""
    weights = _weights(settings)

    def open_torch() -> tuple[str, Encode]:
        model = PackedTorchModel(weights, device=settings.device)
        return model.attention_name, model.encode

    yield PRACTICAL, settings.precision, open_torch
    if settings.shape not in _CPU_EXPORTS:
        return
    with tempfile.TemporaryDirectory(prefix="lasttoken-gpu.") as folder:
        for provider, precision in _providers(settings):

            def open_exported(
                provider: str = provider, precision: str = precision
            ) -> tuple[str, Encode]:
                graph = Path(folder) / provider / "encoder.onnx"
                save_packed_graph(weights, graph, precision=precision, provider=provider)
                engine = open_engine_on(graph, provider)
                checks[provider] = nodes_by_provider(graph, provider)
                return provider, engine.encode

            yield "ONNX Runtime", precision, open_exported


def _providers(settings: SuiteSettings) -> Iterator[tuple[str, str]]:
    """Yield the execution providers here, and the precision that each is compared in."""
    yield "CPUExecutionProvider", "fp32"
    if settings.device == "cuda" and has_provider("CUDAExecutionProvider"):
        yield "CUDAExecutionProvider", settings.precision


def _compare(
    encode: Encode, settings: SuiteSettings, corpus: str, wanted: Vectors, precision: str, who: str
) -> Agreement:
    rows = compared_rows(make_rows(settings, corpus)).rows
    embed = packed_batches(encode)
    vectors = np.empty_like(wanted)
    for batch in pack(rows, settings.batch_tokens):
        vectors[list(batch.indices)] = embed([rows[index] for index in batch.indices])
    return agreement(vectors, wanted, precision=precision, who=who)


def _weights(settings: SuiteSettings) -> RandomWeights:
    return RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
