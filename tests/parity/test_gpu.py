"""On a machine with an NVIDIA GPU: the engines there against ONNX Runtime on the CPU."""

import json

import numpy as np
import pytest
from encoder_settings import EncoderSettings
from engine_choice import open_engine

from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import MissingLibrary
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_config import parse_config
from lasttoken_export.tensorrt.library import load_library
from lasttoken_export.tensorrt.plan_choices import PlanChoices
from lasttoken_export.tensorrt.target import gpu_in_this_machine, rtx_capabilities

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu_in_this_machine() is None, reason="no NVIDIA GPU in this machine"),
]

LOWEST_COSINE = {"fp32": 0.99999, "fp16": 0.999}


def plan_runtime():
    """The library that can build for this GPU; skips where there is none."""
    capability = gpu_in_this_machine().compute_capability
    for runtime in ("tensorrt", "tensorrt-rtx"):
        try:
            library = load_library(runtime)
        except MissingLibrary:
            continue
        if not library.is_rtx or capability in rtx_capabilities(library):
            return runtime
    pytest.skip("neither TensorRT nor a TensorRT-RTX for this GPU is installed")


def export(folder, runtime, precision, cache_folder):
    model = entry("smollm2-135m")
    options = ExportOptions(
        output=folder,
        runtime=runtime,
        precision=precision,
        plan=PlanChoices(cache_folder=folder / "cache"),
    )
    checkpoint = open_checkpoint(model.source, cache_folder=cache_folder)
    report = export_model(checkpoint, model, options)
    return folder / f"{report.triton_name}_encoder"


def engine_of(encoder):
    parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
    values = {name: {"string_value": value.string_value} for name, value in parameters.items()}
    return open_engine(encoder / "1", EncoderSettings.from_parameters(values))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plans_vectors_are_those_of_onnx_runtime(
    precision, smollm2_repository, tmp_path, cache_folder
):
    reference = engine_of(smollm2_repository / "smollm2_135m_encoder")
    encoder = export(tmp_path, plan_runtime(), precision, cache_folder)
    engine = engine_of(encoder)
    random = np.random.default_rng(0)
    lowest = 1.0
    for lengths in ([1], [7], [7], [7], [7], [7], [3, 500, 2, 40], [64] * 30, [2000], [9, 9]):
        ids = random.integers(3, 49152, sum(lengths), dtype=np.int32)
        row_lengths = np.array(lengths, np.int32)
        for row in np.split(ids, np.cumsum(row_lengths)[:-1]):
            row[:20] = np.arange(100, 120)[: len(row)]  # they begin alike, as queries do
        ours = engine.encode(ids, row_lengths)
        assert ours.shape == (len(lengths), 576)
        assert engine.computed_work(ids, row_lengths).shared_tokens > 0 or len(lengths) == 1
        assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-3
        wanted = reference.encode(ids, row_lengths)
        lowest = min(lowest, float((ours * wanted).sum(axis=1).min()))
    print(json.dumps({"precision": precision, "lowest_cosine": lowest}))
    assert lowest > LOWEST_COSINE[precision]


def test_two_batches_in_flight_give_their_own_vectors(tmp_path, cache_folder):
    engine = engine_of(export(tmp_path, plan_runtime(), "fp16", cache_folder))
    random = np.random.default_rng(1)
    batches = [
        (random.integers(3, 49152, sum(lengths), dtype=np.int32), np.array(lengths, np.int32))
        for lengths in ([200] * 20, [3], [50] * 9, [7, 1000])
    ]
    alone = [engine.encode(*batch) for batch in batches]
    finishes = [engine.start(*batches[0])]
    overlapped = []
    for batch in batches[1:]:
        finishes.append(engine.start(*batch))
        overlapped.append(finishes.pop(0)())
    overlapped.append(finishes.pop()())
    for expected, found in zip(alone, overlapped, strict=True):
        np.testing.assert_array_equal(found, expected)
