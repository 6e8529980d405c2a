"""The gate of an export and ``verify``, on tiny checkpoints: what is refused, and what is left."""

import json
import shutil

import numpy as np
import pytest

from lasttoken_export import cli, exporter
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.commands.quality_output import print_quality
from lasttoken_export.errors import (
    InvalidOption,
    ModelNotFound,
    QualityGateMissed,
    VerificationFailed,
)
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.graph import graph_memory
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_config import parse_config
from lasttoken_export.quality import (
    export_check,
    layered_graph,
    reference_vectors,
    token_rows,
)
from lasttoken_export.quality.layered_graph import LayeredGraph
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import (
    open_artefact,
    verify_artefact,
    write_quality,
)
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG, files, make_entry
from unit.tokenizer.small import byte_level_tokenizer

PAIRS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint with weights of a trained model's size."""
    weights = {
        name: array if name.endswith("norm.weight") else array * np.float32(0.2)
        for name, array in tensors(BYTES_CONFIG).items()
    }
    folder = write_folder(tmp_path_factory.mktemp("hf"), weights, config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


def export(folder, output, *, accepted=None, pairs=PAIRS, **options):
    quality = QualityOptions(
        pairs=pairs, accepted=accepted or {}, cache_folder=output.parent / "cache"
    )
    return export_model(
        open_checkpoint(folder),
        make_entry(),
        ExportOptions(output=output, quality=quality, **{"precision": "fp16", **options}),
    )


def break_second_layer(monkeypatch):
    """Zero a weight of the second layer in the written file, as a fault of the writer would."""
    save = exporter.ir.save

    def save_broken(model, path, **options):
        save(model, path, **options)
        name = "layers.1.mlp.down_proj.weight"
        if path.name == "encoder.onnx":
            weight = model.graph.initializers[name].const_value.numpy().tobytes()
            data = path.with_name(f"{path.name}.data")
            content = data.read_bytes()
            assert content.count(weight) == 1
            data.write_bytes(content.replace(weight, bytes(len(weight))))

    monkeypatch.setattr(exporter.ir, "save", save_broken)


def test_a_good_export_bears_its_figures(folder, tmp_path):
    counted = []
    report = export_model(
        open_checkpoint(folder),
        make_entry(),
        ExportOptions(
            output=tmp_path / "repository",
            precision="fp16",
            quality=QualityOptions(pairs=PAIRS, cache_folder=tmp_path / "cache"),
        ),
        on_texts=lambda done, total: counted.append((done, total)),
    )
    quality = json.loads((tmp_path / "repository/small/1/card.json").read_text())["quality"]
    assert quality == json.loads(json.dumps(report.quality))
    assert quality["status"] == "measured"
    assert 0.999 < quality["minimum_cosine"] < 1
    assert quality["bitwise_batch_invariant"] is True
    assert quality["gate"] == {"bounds": {"minimum_cosine": 0.999}, "accepted": {}, "missed": []}
    assert quality["set"]["sha256"] == open_set("python", pairs=PAIRS).sha256
    assert counted[-1] == (4 * PAIRS, 4 * PAIRS)


def test_fp32_is_the_reference_itself(folder, tmp_path):
    report = export_model(
        open_checkpoint(folder), make_entry(), ExportOptions(output=tmp_path / "repository")
    )
    assert report.quality["status"] == "reference"


def test_a_broken_artefact_is_refused_and_the_repository_left_as_it_was(
    folder, tmp_path, monkeypatch
):
    export(folder, tmp_path / "repository")
    before = files(tmp_path / "repository")
    break_second_layer(monkeypatch)
    with pytest.raises(QualityGateMissed, match=r"fp16 of .* minimum_cosine is .* Nothing was pub"):
        export(folder, tmp_path / "repository")
    with pytest.raises(QualityGateMissed):
        export(folder, tmp_path / "repository", triton_name="another")
    assert files(tmp_path / "repository") == before


def test_corrupted_scales_are_refused(folder, tmp_path, monkeypatch):
    def export_int8():
        # nDCG of random weights says nothing; the cosine does.
        accepted = {"ndcg_loss": None}
        return export(folder, tmp_path / "repository", accepted=accepted, precision="int8")

    assert export_int8().quality["mean_cosine"] > 0.99
    before = files(tmp_path / "repository")
    save = exporter.ir.save

    def save_with_shuffled_scales(model, path, **options):
        if path.name == "encoder.onnx":
            scale = model.graph.initializers["layers.1.mlp.gate.scale"]
            shuffled = np.roll(scale.const_value.numpy(), 7, axis=-1)
            scale.const_value = exporter.ir.Tensor(shuffled, name=scale.name)
        save(model, path, **options)

    monkeypatch.setattr(exporter.ir, "save", save_with_shuffled_scales)
    with pytest.raises(QualityGateMissed, match=r"int8 of .* mean_cosine is"):
        export_int8()
    assert files(tmp_path / "repository") == before


def test_what_is_accepted_is_published_and_recorded(folder, tmp_path, monkeypatch):
    break_second_layer(monkeypatch)
    with pytest.raises(QualityGateMissed, match=r"at least 0.9999 is asked"):
        export(folder, tmp_path / "repository", accepted={"minimum_cosine": 0.9999})
    report = export(folder, tmp_path / "repository", accepted={"minimum_cosine": -1.0})
    assert report.quality["minimum_cosine"] < 0.999
    assert report.quality["gate"]["accepted"] == {"minimum_cosine": -1.0}
    assert report.quality["gate"]["bounds"] == {"minimum_cosine": 0.999}


def test_a_check_that_is_switched_off_is_on_the_card(folder, tmp_path, capsys):
    report = export(folder, tmp_path / "repository", pairs=0)
    assert report.quality == {"status": "not measured", "reason": "--quality-pairs 0"}
    print_quality("small", report.quality)
    assert "warning: small: quality not measured: --quality-pairs 0" in capsys.readouterr().err


def only_a_layer_fits(monkeypatch):
    """Leave memory for a layer of the tiny checkpoint and not for all; returns what was run so."""
    run = []

    class Counted(LayeredGraph):
        def encode_batches(self, batches, on_rows=None):
            run.append(len(self._slices))
            return super().encode_batches(batches, on_rows)

    monkeypatch.setattr(token_rows, "LayeredGraph", Counted)
    monkeypatch.setattr(reference_vectors, "LayeredGraph", Counted)
    monkeypatch.setattr(graph_memory, "available_memory_bytes", lambda: 0)
    return run


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-weights"])
def test_a_model_beyond_memory_is_measured_layer_by_layer(folder, tmp_path, monkeypatch, precision):
    accepted = None if precision == "fp16" else {"ndcg_loss": None}
    whole = export(folder, tmp_path / "a/repository", precision=precision, accepted=accepted)
    run = only_a_layer_fits(monkeypatch)
    told = []
    monkeypatch.setattr(export_check, "row_counter", lambda total, _: told.append)
    report = export(folder, tmp_path / "b/repository", precision=precision, accepted=accepted)
    assert run == [2, 2, 2], "the reference, the graph, and whether batches change its vectors"
    assert sum(told) == 4 * PAIRS
    assert report.quality["status"] == "measured"
    assert report.quality["measured_on"].endswith("CPU, layer by layer")
    assert whole.quality["measured_on"].endswith("CPU")
    assert report.quality["bitwise_batch_invariant"] is True
    for figure in ("mean_cosine", "p1_cosine", "minimum_cosine", "ndcg_at_10"):
        assert report.quality[figure] == pytest.approx(whole.quality[figure], abs=1e-6)
    layers = [path for path in tmp_path.rglob("*") if path.name.startswith("lasttoken-layer")]
    assert layers == []


def test_a_fault_in_a_model_beyond_memory_is_refused(folder, tmp_path, monkeypatch):
    only_a_layer_fits(monkeypatch)
    break_second_layer(monkeypatch)
    with pytest.raises(QualityGateMissed, match=r"fp16 of .* misses its gate"):
        export(folder, tmp_path / "repository")
    assert files(tmp_path / "repository") == {}


def test_a_model_of_which_no_layer_fits_is_not_verified_and_says_so(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    only_a_layer_fits(monkeypatch)
    monkeypatch.setattr(layered_graph, "available_memory_bytes", lambda: 1000)
    report = export(folder, tmp_path / "repository")
    assert report.quality["status"] == "not verified"
    assert "running the model layer by layer takes 0." in report.quality["reason"]
    print_quality("small", report.quality)
    assert "warning: small: quality not verified" in capsys.readouterr().err
    assert verify(tmp_path, folder) == 1
    assert "running the model layer by layer takes 0." in capsys.readouterr().err


def test_verify_measures_a_model_beyond_memory_too(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    export(folder, tmp_path / "repository")
    export(folder, tmp_path / "fp32/repository", precision="fp32")
    assert verify(tmp_path, folder, "--json", "--no-write") == 0
    whole = json.loads(capsys.readouterr().out)
    shutil.rmtree(tmp_path / "cache/reference-vectors")
    run = only_a_layer_fits(monkeypatch)
    assert verify(tmp_path, folder, "--json", "--no-write") == 0
    assert json.loads(capsys.readouterr().out)["mean_cosine"] == pytest.approx(
        whole["mean_cosine"], abs=1e-6
    )
    assert run == [2, 2, 2]
    run.clear()
    fp32 = ["--reference", str(tmp_path / "fp32/repository/small")]
    model = str(tmp_path / "repository/small")
    assert cli.main(["verify", model, "--set", "python", "--pairs", "30", *fp32]) == 0
    assert run == [2, 2, 2]


def test_a_cache_that_cannot_be_written_matters_where_it_is_needed_alone(
    folder, tmp_path, monkeypatch, capsys
):
    export(folder, tmp_path / "a/repository")
    export(folder, tmp_path / "fp32/repository", precision="fp32")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "file/cache"))
    words = ["verify", str(tmp_path / "a/repository/small"), "--set", "python", "--pairs", "30",
             "--reference", str(tmp_path / "fp32/repository/small")]  # fmt: skip
    assert cli.main(words) == 0
    only_a_layer_fits(monkeypatch)
    assert cli.main(words) == 1
    assert "Not a directory" in capsys.readouterr().err


def written(folder):
    """When each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def verify(tmp_path, folder, *more):
    return cli.main(
        ["verify", str(tmp_path / "repository/small"), "--set", "python", "--pairs", "30",
         "--checkpoint", str(folder), "--like", "smollm2-135m", *more]
    )  # fmt: skip


def test_verify_writes_the_figures_into_both_copies_of_the_card(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    export(folder, tmp_path / "repository")
    before = files(tmp_path / "repository")
    assert verify(tmp_path, folder, "--json", "--no-write") == 0
    quality = json.loads(capsys.readouterr().out)
    assert files(tmp_path / "repository") == before
    assert (quality["set"]["pairs"], quality["rows"]) == (30, 60)
    kept = written(tmp_path / "cache/reference-vectors")
    assert verify(tmp_path, folder) == 0
    assert "bitwise the same in every batch: True (60 rows" in capsys.readouterr().out
    assert written(tmp_path / "cache/reference-vectors") == kept, "not computed anew"
    after = files(tmp_path / "repository")
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"small/1/card.json", "small/config.pbtxt"}
    assert after.keys() == before.keys()
    card = json.loads(after["small/1/card.json"])
    assert card["quality"] == quality
    config = parse_config(after["small/config.pbtxt"].decode())
    assert json.loads(config.parameters["card"].string_value) == card


def test_verify_finds_a_graph_that_is_not_the_exported_one(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    export(folder, tmp_path / "repository")
    data = tmp_path / "repository/small_encoder/1/encoder.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 64
    data.write_bytes(content)
    assert verify(tmp_path, folder) == 1
    assert "encoder.onnx.data is not the file that was exported" in capsys.readouterr().err


def test_verify_refuses_what_misses_the_gate_and_still_records_it(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    break_second_layer(monkeypatch)
    export(folder, tmp_path / "repository", pairs=0)
    assert verify(tmp_path, folder) == 1
    assert "small misses the gate of fp16: minimum_cosine is" in capsys.readouterr().err
    card = json.loads((tmp_path / "repository/small/1/card.json").read_text())
    assert len(card["quality"]["gate"]["missed"]) == 1
    assert verify(tmp_path, folder, "--accept-quality", "minimum_cosine") == 0
    # Once accepted, it stays so.
    assert verify(tmp_path, folder) == 0


def test_an_export_in_fp32_can_be_the_reference(folder, tmp_path):
    for name, precision in (("small", "fp16"), ("exact", "fp32")):
        options = ExportOptions(
            output=tmp_path / "repository", precision=precision, triton_name=name,
            quality=QualityOptions(pairs=0),
        )  # fmt: skip
        export_model(open_checkpoint(folder), make_entry(), options)
    small = open_artefact(tmp_path / "repository/small")
    exact = open_artefact(tmp_path / "repository/exact")
    texts = open_set("python", pairs=PAIRS)
    quality = verify_artefact(small, texts, exact, accepted={})
    checkpoint = open_checkpoint(folder)
    again = verify_artefact(
        small, texts, (checkpoint, EmbeddingContract()), accepted={}, cache_folder=tmp_path / "c"
    )
    assert quality == again
    with pytest.raises(InvalidOption, match="the reference small is fp16"):
        verify_artefact(exact, texts, small, accepted={})


def test_verify_refuses_another_models_checkpoint_and_what_is_no_export(folder, tmp_path):
    export(folder, tmp_path / "repository", pairs=0)
    artefact = open_artefact(tmp_path / "repository/small")
    other = write_folder(tmp_path / "other", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (other / "tokenizer.json").write_text(byte_level_tokenizer(lstrip=True))
    reference = (open_checkpoint(other), EmbeddingContract())
    with pytest.raises(VerificationFailed, match="have different tokenizers"):
        verify_artefact(artefact, open_set("python", pairs=4), reference, accepted={})
    with pytest.raises(ModelNotFound, match=r"REPOSITORY|<repository>/<model>"):
        open_artefact(tmp_path / "repository/small_encoder")
    artefact.graph.rename(artefact.graph.with_name("encoder.plan"))
    with pytest.raises(InvalidOption, match="a TensorRT plan runs on its own GPU only"):
        verify_artefact(artefact, open_set("python", pairs=4), reference, accepted={})


def test_writing_figures_keeps_awkward_text_whole(folder, tmp_path):
    export(folder, tmp_path / "repository", pairs=0)
    artefact = open_artefact(tmp_path / "repository/small")
    for note in ('say "so" \\ or\nnot', "später: 日本"):
        write_quality(open_artefact(tmp_path / "repository/small"), {"status": note})
        config = parse_config((tmp_path / "repository/small/config.pbtxt").read_text())
        card = json.loads(config.parameters["card"].string_value)
        assert card["quality"] == {"status": note}
        assert card["sha256"] == artefact.card["sha256"]
