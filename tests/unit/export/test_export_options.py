"""What the caller may choose, refused before anything is read."""

from pathlib import Path

import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_export.export_options import ExportOptions
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quantisation.calibration_options import CalibrationOptions


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"intra_op_threads": -1}, "intra_op_threads is -1; choose 0 or more"),
        ({"streams": -1}, "streams is -1; choose 0 or more"),
        ({"streams": 2, "runtime": "onnxruntime-cuda"}, "--streams is of the python encoder on"),
        ({"streams": 2, "encoder": "native"}, "--streams is of the python encoder on"),
        ({"kept_prefix_tokens": -1}, "kept_prefix_tokens is -1; choose 0 or more"),
        ({"kept_prefix_tokens": 0, "runtime": "tensorrt"}, "--kept-prefix-tokens is of the python"),
        ({"kept_prefix_tokens": 9, "encoder": "native"}, "--kept-prefix-tokens is of the python"),
        ({"max_length": 0}, "max_length is 0; choose 1 or more"),
        ({"max_queue_tokens": 0}, "max_queue_tokens is 0"),
        ({"native_batch_size": 0, "encoder": "native"}, "native_batch_size is 0"),
        ({"native_batch_size": 4}, "add --encoder native"),
        ({"calibration": CalibrationOptions(texts=Path("x"))}, "fp32 is none"),
        ({"calibration": CalibrationOptions(seed=1)}, "--calibration-seed is .* fp32 is none"),
        (
            {"calibration": CalibrationOptions(folder=Path("x")), "precision": "int8-weights"},
            "--calibration-folder is .* int8-weights is none",
        ),
        ({"quality": QualityOptions(accepted={"minimum_cosine": None})}, "--accept-quality is of"),
        (
            {"quality": QualityOptions(accepted={"ndcg_loss": None}, pairs=0), "precision": "int8"},
            "--accept-quality is of figures that are measured",
        ),
        (
            {"quality": QualityOptions(accepted={"ndcg_loss": 0.1}), "precision": "fp16"},
            "--accept-quality ndcg_loss: the gate of fp16 does not ask for it",
        ),
        ({"max_queue_tokens": 9999, "encoder": "native"}, "--max-queue-tokens is of the python"),
        ({"triton_name": ""}, "cannot name a model"),
        ({"triton_name": "a/b"}, "cannot name a model"),
        ({"triton_name": "..", "precision": "fp16"}, "cannot name a model"),
        ({"triton_name": "other_encoder"}, "ends in '_encoder'"),
        ({"triton_name": "other_tokenizer"}, "ends in '_tokenizer'"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(InvalidOption, match=words):
        ExportOptions(output=Path("x"), **options)


def test_a_queue_that_holds_no_batch_is_refused():
    assert ExportOptions(output=Path("x")).queue_tokens(512) == 65536
    assert ExportOptions(output=Path("x")).queue_tokens(131072) == 131072
    options = ExportOptions(output=Path("x"), max_queue_tokens=2048)
    assert options.queue_tokens(2048) == 2048
    with pytest.raises(InvalidOption, match=r"--max-queue-tokens is 2048; .*choose 2049 or more"):
        options.queue_tokens(2049)


def test_what_can_be_is_not():
    ExportOptions(
        output=Path("x"), precision="int8", triton_name="a-B_1.2", max_length=1,
        encoder="native", native_batch_size=1, calibration=CalibrationOptions(texts=Path("x")),
    )  # fmt: skip
