"""Whole exports of tiny checkpoints: what is written, and what is left when one fails."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from lasttoken_export import cli, exporter, repository
from lasttoken_export.architectures import attention_cell_cost
from lasttoken_export.catalogue import parse_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import (
    InvalidOption,
    MaxLengthBeyondModel,
    MissingTensor,
    NotEnoughDisk,
    PlanError,
    TokenizerMismatch,
    VerificationFailed,
)
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.server_modules import server_module
from lasttoken_export.tensorrt import target as tensorrt_target
from lasttoken_export.tensorrt.plan_choices import PlanChoices
from unit.export.checkpoints import CONFIG, tensors, write_folder
from unit.tokenizer.small import byte_ids, byte_level_tokenizer, contract_data

BYTES_CONFIG = {**CONFIG, "vocab_size": 259}


def make_entry(**changes):
    tokenizer = contract_data(max_length=32, **changes)
    return parse_entry(
        {
            "name": "small",
            "source": {"kind": "hub", "id": "a/b", "revision": None},
            "licence": {"id": "mit", "note": ""},
            "pooling": "last_token",
            "layer_norm": False,
            "dimensions": 32,
            "matryoshka": None,
            "attention": "causal",
            "precisions": ["fp32", "fp16"],
            "tokenizer": tokenizer,
            "quality": [],
            "golden_scores": None,
            "notes": "",
        }
    )


@pytest.fixture
def folder(tmp_path):
    folder = write_folder(tmp_path / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


def export(folder, output, **options):
    return export_model(
        open_checkpoint(folder), make_entry(), ExportOptions(output=output, **options)
    )


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_repository_holds_all_that_the_server_needs(folder, tmp_path):
    progress = []
    report = export_model(
        open_checkpoint(folder),
        make_entry(),
        ExportOptions(output=tmp_path / "repository", on_overflow="refuse", intra_op_threads=1),
        on_bytes=lambda done, total: progress.append((done, total)),
    )
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == [
        "small",
        "small_encoder",
        "small_tokenizer",
    ]
    assert progress[-1] == (report.weight_bytes, report.weight_bytes)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    encoder = parse_config((tmp_path / "repository/small_encoder/config.pbtxt").read_text())
    values = {name: value.string_value for name, value in encoder.parameters.items()}
    assert (values["max_length"], values["vocab_size"]) == ("32", "259")
    assert (values["max_batch_tokens"], values["intra_op_threads"]) == ("512", "1")
    card = json.loads((tmp_path / "repository/small/1/card.json").read_text())
    assert card["checks"]["bitwise_batch_invariant"] is True
    assert card["checks"]["largest_norm_error"] < 1e-6
    assert {"query", "wrapped", "Banking77Classification"} <= set(card["prompts"])
    assert (card["opening_ids"], card["closing_ids"], card["vocab_size"]) == ([256], [257], 259)
    assert (card["matryoshka"], card["default_prompt_name"]) == (None, None)
    assert set(card["sha256"]) >= {"small_encoder/1/encoder.onnx.data"}


def inputs_of(graph):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return {node.name for node in session.get_inputs()}


SHARED = {"token_of_slot", "slot_of_token"}


@pytest.mark.parametrize(
    ("options", "pooling", "indices"),
    [
        ({}, "last_token", {*SHARED, "kept", "to_keep"}),
        # Triton's own backends can form no such indices.
        ({"encoder": "native"}, "last_token", {"slots"}),
        # On a GPU nothing is kept from batch to batch.
        ({"runtime": "onnxruntime-cuda"}, "last_token", SHARED),
        # Of a kept token there is nothing that could be pooled.
        ({}, "mean", SHARED),
        ({}, "cls", SHARED),
    ],
)
def test_only_a_scheduler_on_the_cpu_is_given_a_graph_of_kept_tokens(
    folder, tmp_path, options, pooling, indices
):
    entry = dataclasses.replace(make_entry(), pooling=pooling)
    options = ExportOptions(output=tmp_path / "repository", **options)
    export_model(open_checkpoint(folder), entry, options)
    found = inputs_of(tmp_path / "repository/small_encoder/1/encoder.onnx")
    assert found == {"input_ids", "row_lengths", *indices}


@pytest.mark.parametrize(("asked", "written"), [(None, "1024"), (0, "0"), (70, "70")])
def test_how_much_is_kept_is_the_callers_choice(folder, tmp_path, asked, written):
    export(folder, tmp_path / "repository", kept_prefix_tokens=asked)
    encoder = parse_config((tmp_path / "repository/small_encoder/config.pbtxt").read_text())
    assert encoder.parameters["kept_prefix_tokens"].string_value == written


def test_a_model_of_both_directions_shares_nothing(folder, tmp_path):
    entry = dataclasses.replace(make_entry(), attention="bidirectional")
    export_model(open_checkpoint(folder), entry, ExportOptions(output=tmp_path / "repository"))
    found = inputs_of(tmp_path / "repository/small_encoder/1/encoder.onnx")
    assert found == {"input_ids", "row_lengths", "slots"}


def test_the_written_weights_are_the_checkpoints(folder, tmp_path):
    export(folder, tmp_path / "repository")
    import onnx

    model = onnx.load(tmp_path / "repository/small_encoder/1/encoder.onnx")
    written = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    weights = tensors(BYTES_CONFIG)
    for name, joined in (("queries_keys", "qk"), ("values", "v")):
        fused = written[f"layers.1.self_attn.{name}.weight"]
        parts = [weights[f"layers.1.self_attn.{part}_proj.weight"].T for part in joined]
        np.testing.assert_array_equal(fused, np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(written["norm.weight"], weights["norm.weight"])


def test_a_model_beyond_memory_is_run_with_its_first_layer(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "fits_into_memory", lambda memory_bytes: False)
    export(folder, tmp_path / "repository")
    card = json.loads((tmp_path / "repository/small/1/card.json").read_text())
    assert card["checks"]["layers_run"] == 1
    assert card["checks"]["bitwise_batch_invariant"] is True
    assert card["checks"]["weight_bytes_compared"] > 10_000
    names = {path.name for path in (tmp_path / "repository/small_encoder/1").iterdir()}
    assert {"encoder.onnx", "encoder.onnx.data"} <= names
    assert "first_layer.onnx" not in names


def test_nothing_foreign_lies_in_the_repository_while_it_is_written(folder, tmp_path):
    """A Triton that starts meanwhile would take it for a model."""
    seen = []
    export_model(
        open_checkpoint(folder),
        make_entry(),
        ExportOptions(output=tmp_path / "parent" / "repository"),
        on_bytes=lambda done, total: seen.extend((tmp_path / "parent/repository").iterdir()),
    )
    assert seen == []
    assert [path.name for path in (tmp_path / "parent").iterdir()] == ["repository"]


def test_a_weight_that_is_not_the_checkpoints_is_found(folder, tmp_path, monkeypatch):
    save = exporter.ir.save

    def save_with_a_flipped_bit(model, path, **options):
        save(model, path, **options)
        data = path.with_name(f"{path.name}.data")
        content = bytearray(data.read_bytes())
        weight = tensors(BYTES_CONFIG)["layers.0.mlp.down_proj.weight"].T
        content[content.index(np.ascontiguousarray(weight).tobytes()) + 5] ^= 1
        data.write_bytes(content)

    monkeypatch.setattr(exporter.ir, "save", save_with_a_flipped_bit)
    with pytest.raises(VerificationFailed, match=r"down_proj\.weight' .* is not the checkpoint's"):
        export(folder, tmp_path / "repository")
    assert files(tmp_path / "repository") == {}


def test_tokens_that_are_shared_by_mistake_are_found(folder, tmp_path, monkeypatch):
    """The rows that the exporter tries begin alike, as queries do."""

    def mistaken(input_ids, row_lengths, *, shares_prefixes):
        inputs = graph_inputs(input_ids, row_lengths, shares_prefixes=shares_prefixes)
        if len(inputs["input_ids"]) < len(input_ids) - 20:  # not those that begin alike by chance
            inputs["token_of_slot"][:, 3] = inputs["token_of_slot"][:, 2]
        return inputs

    engine = server_module(ENCODER, "onnxruntime_engine")
    graph_inputs = engine.graph_inputs
    monkeypatch.setattr(engine, "graph_inputs", mistaken)
    with pytest.raises(VerificationFailed, match="stable unit vectors"):
        export(folder, tmp_path / "repository")


@pytest.mark.parametrize(
    "mistake", [lambda kept: np.roll(kept, 1, axis=1), lambda kept: kept * np.float32("nan")]
)
def test_tokens_that_are_kept_by_mistake_are_found(folder, tmp_path, monkeypatch, mistake):
    """The rows that the exporter tries one after the other begin alike, as queries do."""
    seen = []

    def mistaken(parts, nothing):
        inputs = gather_kept(parts, nothing)
        seen.append(len(inputs["kept"]))
        return inputs | {"kept": mistake(inputs["kept"])}

    engine = server_module(ENCODER, "onnxruntime_engine")
    gather_kept = engine.gather_kept
    monkeypatch.setattr(engine, "gather_kept", mistaken)
    with pytest.raises(VerificationFailed, match="stable unit vectors"):
        export(folder, tmp_path / "repository")
    assert max(seen) == 24


def test_a_precision_that_is_not_safe_is_refused(folder, tmp_path):
    entry = dataclasses.replace(make_entry(), precisions=("fp32", "bf16"))
    options = ExportOptions(output=tmp_path / "repository", precision="fp16")
    with pytest.raises(InvalidOption, match=r"not safe in fp16.*choose one of fp32, int8"):
        export_model(open_checkpoint(folder), entry, options)


def test_a_second_model_joins_and_a_second_export_replaces(folder, tmp_path):
    export(folder, tmp_path / "repository")
    export(folder, tmp_path / "repository", triton_name="other", precision="fp16")
    before = files(tmp_path / "repository")
    export(folder, tmp_path / "repository", triton_name="other")
    after = files(tmp_path / "repository")
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert {name.split("/")[0] for name in changed} == {"other", "other_encoder"}


@pytest.mark.parametrize("moment", ["disk", "tokenizer", "weights", "verification"])
def test_a_failed_export_leaves_the_repository_as_it_was(folder, tmp_path, monkeypatch, moment):
    export(folder, tmp_path / "repository")
    before = files(tmp_path / "repository")
    entry, error = make_entry(), OSError
    if moment == "disk":
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(repository.shutil, "disk_usage", lambda path: usage)
        error = NotEnoughDisk
    elif moment == "tokenizer":
        entry = make_entry(golden=[{"text": "a", "prompt_name": None, "ids": [256, 0, 257]}])
        error = TokenizerMismatch
    elif moment == "weights":

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(exporter.ir, "save", full)
    else:
        weights = tensors(BYTES_CONFIG)
        weights["norm.weight"][:] = np.nan
        write_folder(folder, weights, config=BYTES_CONFIG)
        error = VerificationFailed
    with pytest.raises(error):
        export_model(open_checkpoint(folder), entry, ExportOptions(output=tmp_path / "repository"))
    assert files(tmp_path / "repository") == before
    assert len(list((tmp_path / "repository").iterdir())) == 3


def test_lengths_and_tensors_are_checked_before_anything_is_written(folder, tmp_path):
    with pytest.raises(MaxLengthBeyondModel, match="64 positions"):
        export(folder, tmp_path / "out", max_length=65)
    weights = tensors(BYTES_CONFIG)
    del weights["norm.weight"]
    write_folder(folder, weights, config=BYTES_CONFIG)
    with pytest.raises(MissingTensor):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"runtime": "tensorrt"}, PlanError, "needs the Python package|there is none in"),
        ({"plan": PlanChoices(keep_graph=True)}, InvalidOption, "--keep-graph"),
        ({"plan": PlanChoices(use_cache=False)}, InvalidOption, "--no-plan-cache are of plans"),
        ({"max_queue_tokens": 511}, InvalidOption, "--max-queue-tokens is 511; a batch"),
        ({"quality": QualityOptions(retrieval_set="nope")}, InvalidOption, "'nope' is neither"),
    ],
    ids=["target", "plan", "plan cache", "queue", "texts"],
)
def test_what_can_be_refused_is_refused_before_a_calibration(
    folder, tmp_path, monkeypatch, options, error, words
):
    monkeypatch.setattr(tensorrt_target, "gpu_in_this_machine", lambda: None)
    monkeypatch.setattr(exporter, "calibrate_entry", lambda *_, **__: pytest.fail("calibrated"))
    with pytest.raises(error, match=words):
        export(folder, tmp_path / "out", precision="int8", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused(folder, tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "repository"):
        with pytest.raises(InvalidOption, match="file is no folder; choose another --output"):
            export(folder, output)


def test_a_dangling_link_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidOption, match="link is no folder; choose another --output"):
        export(folder, tmp_path / "link")


def test_a_read_only_output_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(repository.os, "access", lambda *_: False)
    with pytest.raises(InvalidOption, match="is read-only for this user; choose another"):
        export(folder, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("option", ["precision", "runtime", "on_overflow"])
def test_options_are_checked(tmp_path, option):
    with pytest.raises(InvalidOption, match=f"{option} is 'nope'; choose one of"):
        ExportOptions(output=tmp_path, **{option: "nope"})


def test_the_cost_of_a_cell_is_that_of_the_architecture():
    sfr = {**CONFIG, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336}  # fmt: skip
    config = DecoderConfig.from_hugging_face(sfr)
    # 4 operations an element of 32 heads of 128, over 13.96 GFLOP a token of the whole body
    assert attention_cell_cost(config) == pytest.approx(4 * 4096 * 32 / 13.96e9, rel=0.01)


def test_the_command_line(folder, tmp_path, capsys):
    output = str(tmp_path / "repository")
    assert cli.main([str(folder), "--like", "nothing", "--output", output]) == 2
    assert "--like with one of" in capsys.readouterr().err
    assert cli.main([str(folder), "--output", output]) == 1
    assert "AmbiguousModel" in capsys.readouterr().err
    # Right contract, wrong model: the golden ids of SFR tell.
    assert cli.main([str(folder), "--like", "sfr-embedding-mistral", "--output", output]) == 1
    assert "MaxLengthBeyondModel: maximum length 4096" in capsys.readouterr().err
    arguments = ["--like", "sfr-embedding-mistral", "--max-length", "32", "--output", output]
    assert cli.main([str(folder), *arguments]) == 1
    captured = capsys.readouterr()
    assert "TokenizerMismatch: sfr-embedding-mistral: '<s>' has id 256" in captured.err
    said = "hf: licence unknown (see the model's own card); served like sfr-embedding-mistral"
    assert said in captured.err
    with pytest.raises(SystemExit) as exit_code:
        cli.main([str(folder), "--precision", "fp7", "--output", output])
    assert exit_code.value.code == 2


@pytest.mark.slow
def test_weights_stream_through_little_memory(tmp_path):
    """Export about 1 GB of weights; the peak stays far below that, and no torch is imported."""
    config = {**CONFIG, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4,
              "head_dim": 64, "intermediate_size": 4096, "num_hidden_layers": 32,
              "vocab_size": 259}  # fmt: skip
    weights = {
        name: np.broadcast_to(np.float16(0.01), array.shape).copy()
        for name, array in tensors(config, np.float16).items()
    }
    total_bytes = sum(array.nbytes for array in weights.values())
    assert total_bytes > 9e8
    folder = write_folder(tmp_path / "hf", weights, config=config, shards=4)
    script = """
import resource, sys
from pathlib import Path
import onnx_ir as ir
import lasttoken_export.commands.export
from lasttoken_export.checkpoint import open_checkpoint, validate_tensors
from lasttoken_export.graph.decoder import DecoderGraph

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = peak_mb()
checkpoint = open_checkpoint(sys.argv[1])
validate_tensors(checkpoint)
graph = DecoderGraph(checkpoint, precision="fp16").build(rotary_positions=64, version="0")
ir.save(graph, Path(sys.argv[2]) / "encoder.onnx", external_data="encoder.onnx.data")
assert not {"torch", "transformers"} & sys.modules.keys()
print(peak_mb() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "encoder.onnx.data").stat().st_size >= total_bytes
    assert float(run.stdout) < 150, "MB beyond what was there before the export"


def test_golden_ids_are_those_of_the_bytes():
    assert make_entry().tokenizer["golden"][0]["ids"] == [256, *byte_ids("the cat sat"), 257]
