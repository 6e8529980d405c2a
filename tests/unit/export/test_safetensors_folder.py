import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lasttoken_export.checkpoint import SafetensorsFolder, validate_tensors
from lasttoken_export.errors import (
    CorruptFile,
    InvalidCheckpoint,
    MissingTensor,
    ModelNotFound,
    TensorShapeMismatch,
    UnexpectedTensor,
    UnsupportedModel,
    UnsupportedTokenizer,
)
from unit.export.checkpoints import tensors, write_folder


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_come_back_bit_for_bit(tmp_path, prefix, shards, dtype):
    weights = tensors(dtype=dtype)
    folder = SafetensorsFolder(write_folder(tmp_path / "m", weights, prefix=prefix, shards=shards))
    validate_tensors(folder)
    assert folder.names() == weights.keys()
    for name, array in weights.items():
        assert folder.shape(name) == array.shape
        assert folder.read(name).dtype == array.dtype
        np.testing.assert_array_equal(folder.read(name), array)


def test_the_head_of_a_language_model_is_ignored(tmp_path):
    weights = {"model." + name: array for name, array in tensors().items()}
    weights["lm_head.weight"] = np.zeros((40, 32), np.float32)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    validate_tensors(SafetensorsFolder(write_folder(tmp_path, weights)))


def checked(folder):
    validate_tensors(SafetensorsFolder(folder))


def test_a_missing_an_extra_and_a_misshapen_tensor(tmp_path):
    weights = tensors()
    del weights["layers.1.mlp.up_proj.weight"]
    with pytest.raises(MissingTensor, match=r"1 tensors .*'layers\.1\.mlp\.up_proj\.weight'"):
        checked(write_folder(tmp_path / "missing", weights))
    weights = tensors() | {"layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}
    with pytest.raises(UnexpectedTensor, match=r"q_proj\.bias"):
        checked(write_folder(tmp_path / "extra", weights))
    weights = tensors() | {"norm.weight": np.zeros(31, np.float32)}
    with pytest.raises(TensorShapeMismatch, match=r"'norm\.weight' has shape \(31,\).*\(32,\)"):
        checked(write_folder(tmp_path / "shape", weights))


def test_quantised_integers_are_not_weights(tmp_path):
    weights = tensors() | {"norm.weight": np.zeros(32, np.int8)}
    with pytest.raises(UnsupportedModel, match=r"'norm\.weight' is of type I8"):
        checked(write_folder(tmp_path, weights))


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        data = data[:-100]
    elif kind == "empty":
        data = b""
    elif kind == "header flipped":
        data[20] ^= 0xFF
    elif kind == "header length hostile":
        data[:8] = struct.pack("<Q", 2**62)
    elif kind == "offsets beyond the file":
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        header["norm.weight"]["data_offsets"] = [2**40, 2**40 + 128]
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    path.write_bytes(data)


@pytest.mark.parametrize(
    "kind",
    ["truncated", "empty", "header flipped", "header length hostile", "offsets beyond the file"],
)
def test_a_damaged_file_is_named(tmp_path, kind):
    folder = write_folder(tmp_path)
    damage(folder / "model.safetensors", kind)
    with pytest.raises(CorruptFile, match=r"model\.safetensors .*download it again"):
        checked(folder)


def test_a_missing_shard_is_named(tmp_path):
    folder = write_folder(tmp_path, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match=r"1 of 3 shards .*'model-00002-of-00003"):
        checked(folder)


def test_an_index_that_promises_too_much(tmp_path):
    folder = write_folder(tmp_path, shards=2)
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["layers.7.ghost.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(data))
    with pytest.raises(MissingTensor, match=r"promises 'layers\.7\.ghost\.weight'"):
        checked(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"norm.weight": "../model.safetensors"}}', "names no files of its folder"),
        ('{"weight_map": {}}', "no weight_map"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_index(tmp_path, text, message):
    folder = write_folder(tmp_path, shards=2)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CorruptFile, match=message):
        checked(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = write_folder(tmp_path, shards=2)
    file = folder / "model-00001-of-00002.safetensors"
    save_file(tensors(), file)
    with pytest.raises(InvalidCheckpoint, match="there twice"):
        checked(folder)


def test_folders_that_are_no_models(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        SafetensorsFolder(tmp_path)
    folder = write_folder(tmp_path / "bin")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"\.bin\) are not read"):
        SafetensorsFolder(folder)


def test_tokenizers(tmp_path):
    folder = SafetensorsFolder(write_folder(tmp_path))
    with pytest.raises(UnsupportedTokenizer, match=r"neither tokenizer\.json nor"):
        folder.tokenizer_json()
    (tmp_path / "tokenizer.model").write_bytes(b"\xff not a model")
    with pytest.raises(CorruptFile, match=r"tokenizer\.model is not a SentencePiece model"):
        folder.tokenizer_json()
    (tmp_path / "tokenizer.json").write_text('{"a": "é"}', encoding="utf-8")
    assert folder.tokenizer_json() == '{"a": "é"}'
