"""Exports with a plan: what is written, checked and refused, and what ``verify`` says of them."""

import dataclasses
import json

import pytest

from lasttoken_export import cli
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.commands import export as export_command
from lasttoken_export.errors import InvalidOption, VerificationFailed
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_config import parse_config
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import check_files, open_artefact, verify_artefact
from lasttoken_export.quantisation.calibration_options import CalibrationOptions
from lasttoken_export.tensorrt.library import load_library
from lasttoken_export.tensorrt.plan_choices import PlanChoices
from unit.export.checkpoints import write_wide_folder
from unit.export.test_export import make_entry

pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed: make integrations, on x86-64 Linux"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_wide_folder(tmp_path_factory.mktemp("plans") / "hf")


def small_entry():
    return dataclasses.replace(make_entry(), precisions=("fp32", "fp16", "bf16"))


def test_an_export_holds_a_plan_in_place_of_the_graph(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    words = [
        str(folder), "--like", "smollm2-135m", "--precision", "fp16", "--name", "small",
        "--runtime", "tensorrt-rtx", "--compute-capability", "8.9", "--max-length", "64",
    ]  # fmt: skip
    monkeypatch.setattr(export_command, "find_entry", lambda *_: small_entry())
    words += ["--quality-pairs", "0"]
    assert cli.main([*words, "--output", str(tmp_path / "first")]) == 0, capsys.readouterr().err
    encoder = tmp_path / "first/small_encoder"
    assert {"encoder.plan", "model.py"} <= {path.name for path in (encoder / "1").iterdir()}
    assert not list((encoder / "1").glob("*.onnx*"))
    parameters = parse_config((encoder / "config.pbtxt").read_text()).parameters
    assert parameters["runtime"].string_value == "tensorrt-rtx"
    card = json.loads((tmp_path / "first/small/1/card.json").read_text())
    plan = card["plan"]
    assert card["runtime"] == plan["library"] == "tensorrt-rtx"
    assert (plan["compute_capability"], plan["precision"], plan["gpu"]) == ("8.9", "fp16", None)
    assert plan["library_version"] == load_library("tensorrt-rtx").version
    assert plan["build_seconds"] > 0
    assert not plan["from_cache"]
    assert plan["plan_bytes"] == (encoder / "1/encoder.plan").stat().st_size
    tokens, rows, longest = (
        int(parameters[name].string_value)
        for name in ("max_batch_tokens", "max_batch_rows", "max_length")
    )
    assert {name: shapes[2] for name, shapes in plan["profile"].items()} == {
        "input_ids": [tokens],
        "row_lengths": [rows],
        "token_of_slot": [rows, longest],
        "slot_of_token": [tokens],
    }
    assert "small_encoder/1/encoder.plan" in card["sha256"]

    again = [*words, "--output", str(tmp_path / "second"), "--keep-graph"]
    assert cli.main(again) == 0
    second = json.loads((tmp_path / "second/small/1/card.json").read_text())
    assert second["plan"]["from_cache"]
    assert second["sha256"] == card["sha256"]
    graph = tmp_path / "second/small_encoder/1/encoder.onnx"
    assert set(second["plan"]["graph_sha256"]) == {
        f"small_encoder/1/{name}" for name in ("encoder.onnx", "encoder.onnx.data")
    }
    artefact = open_artefact(tmp_path / "second/small")
    check_files(artefact)
    graph.write_bytes(graph.read_bytes() + b" ")
    with pytest.raises(
        VerificationFailed, match=r"encoder\.onnx is not the file that was exported"
    ):
        check_files(artefact)
    foreign = open_artefact(tmp_path / "first/small")
    foreign.graph.touch()
    with pytest.raises(VerificationFailed, match="export it again with --keep-graph"):
        check_files(foreign)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weights", "fp8", "int4"])
def test_quality_and_batches_are_checked_before_a_plan_is_built(folder, tmp_path, precision):
    file = tmp_path / "pairs.jsonl"
    pairs = [{"query": "x" * n, "document": "y" * (3 * n)} for n in range(1, 20)]
    file.write_text("\n".join(map(json.dumps, pairs)))
    figures = ["minimum_cosine"] if precision == "fp16" else ["mean_cosine", "ndcg_loss"]
    report = export_model(
        open_checkpoint(folder),
        small_entry(),
        ExportOptions(
            output=tmp_path / "repository",
            runtime="tensorrt-rtx",
            precision=precision,
            max_length=64,
            plan=PlanChoices(compute_capability="8.9", use_cache=False, keep_graph=True),
            quality=QualityOptions(
                retrieval_set=str(file),
                pairs=19,
                # Random weights have no figures worth a gate; company must not matter to them.
                accepted=dict.fromkeys(figures),
                cache_folder=tmp_path / "cache",
            ),
            calibration=CalibrationOptions(folder=tmp_path / "calibration")
            if PRECISIONS[precision].is_calibrated
            else None,
        ),
    )
    assert (tmp_path / "repository/small_encoder/1/encoder.plan").exists()
    assert report.checks["bitwise_batch_invariant"]
    assert report.quality["status"] == "measured"
    assert report.quality["bitwise_batch_invariant"]
    assert report.quality["plan"].startswith("not measured")
    artefact = open_artefact(tmp_path / "repository/small")
    reference = open_checkpoint(folder), EmbeddingContract.of(small_entry())
    found = verify_artefact(
        artefact, open_set(str(file)), reference, accepted={}, cache_folder=tmp_path
    )
    unlike = {name for name in found if found[name] != report.quality[name]}
    assert unlike <= {"rows", "gate"}  # more rows in company, and what was accepted at export


def test_a_graph_that_the_cpu_cannot_run_is_exported_and_the_card_says_so(folder, tmp_path):
    choices = PlanChoices(compute_capability="8.9", use_cache=False, keep_graph=True)
    report = export_model(
        open_checkpoint(folder),
        small_entry(),
        ExportOptions(
            output=tmp_path, runtime="tensorrt-rtx", precision="bf16", max_length=64, plan=choices
        ),
    )
    assert "no kernel" in report.checks["not_run"] or "implementation" in report.checks["not_run"]
    assert (tmp_path / "small_encoder/1/encoder.plan").exists()
    assert report.quality["status"] == "not measured"
    artefact = open_artefact(tmp_path / "small")
    reference = open_checkpoint(folder), EmbeddingContract.of(small_entry())
    with pytest.raises(InvalidOption, match="small cannot be verified on this machine: ONNX Run"):
        verify_artefact(artefact, open_set("python", pairs=2), reference, accepted={})


def test_a_plan_that_cannot_be_kept_is_not_lost(folder, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/plans").write_text("a file where the folder would be")
    choices = PlanChoices(compute_capability="8.9", cache_folder=tmp_path / "cache")
    said = []
    options = ExportOptions(
        output=tmp_path / "repository", runtime="tensorrt-rtx", precision="fp16", max_length=64,
        plan=choices, quality=QualityOptions(pairs=0),
    )  # fmt: skip
    export_model(open_checkpoint(folder), small_entry(), options, say=said.append)
    assert (tmp_path / "repository/small_encoder/1/encoder.plan").stat().st_size
    assert "could not be kept" in said[0]


def test_a_refused_target_leaves_no_repository(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_command, "find_entry", lambda *_: small_entry())
    code = cli.main(
        [str(folder), "--runtime", "tensorrt-rtx", "--compute-capability", "9.0", "--precision",
         "fp16", "--output", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 1
    assert "UnsupportedDevice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
