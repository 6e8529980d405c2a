"""The table of precisions: what runs where, and what is refused."""

from __future__ import annotations

import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_export.exporter import ExportOptions
from lasttoken_export.precisions import (
    PRECISIONS,
    TARGETS,
    find_precision,
    float_type,
    safe_precisions,
)


def test_the_default_gates():
    gates = {name: precision.gate for name, precision in PRECISIONS.items()}
    assert gates["fp16"].minimum_cosine == gates["bf16"].minimum_cosine == 0.999
    for name in ("int8", "int8-weights", "fp8"):
        assert (gates[name].mean_cosine, gates[name].ndcg_loss) == (0.99, 0.01)
    assert (gates["int4"].mean_cosine, gates["int4"].ndcg_loss) == (0.98, 0.02)


@pytest.mark.parametrize(
    ("name", "target", "way_out"),
    [
        ("bf16", "onnxruntime", "choose onnxruntime-cuda or tensorrt or tensorrt-rtx as the runt"),
        ("fp8", "onnxruntime", "or one of fp32, fp16, int8, int8-weights, int4 as the precision"),
        ("int8", "onnxruntime-cuda", "or one of fp32, fp16, bf16 as the precision"),
        ("int7", "onnxruntime", "precision is 'int7'; choose one of fp32, fp16, bf16, int8"),
        ("int8", "openvino", "the target is 'openvino'; choose one of onnxruntime, "),
    ],
)
def test_what_cannot_run_is_refused_with_the_way_out(name, target, way_out):
    with pytest.raises(InvalidOption, match=way_out):
        find_precision(name, target)


def test_export_options_refuse_a_precision_that_the_runtime_cannot_run(tmp_path):
    with pytest.raises(InvalidOption, match="onnxruntime cannot run fp8"):
        ExportOptions(output=tmp_path, precision="fp8", runtime="onnxruntime")


def test_the_float_type_is_the_first_safe_one():
    assert float_type("int8", "onnxruntime") == "fp32"
    assert float_type("int8", "tensorrt") == "fp16"
    assert float_type("int8", "tensorrt", ("fp32", "bf16")) == "bf16"
    assert float_type("int8", "tensorrt", ("fp32",)) is None
    assert safe_precisions("tensorrt", ("fp32",)) == ("fp32",)
    assert safe_precisions("onnxruntime", ("fp32",)) == ("fp32", "int8", "int8-weights", "int4")


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_runs_the_reference(target):
    assert float_type("fp32", target) == "fp32"
