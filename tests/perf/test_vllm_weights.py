"""Weights in int8 for vLLM."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lasttoken_perf.peers.vllm_weights import round_channels, write_int8_folder


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "huggingface"
    source.mkdir()
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.standard_normal(shape).astype(np.float16)
        for name, shape in {
            "embed_tokens.weight": (7, 4),
            "layers.0.mlp.up_proj.weight": (6, 4),
            "layers.0.input_layernorm.weight": (4,),
            "encoder.layer.11.output.dense.weight": (4, 6),
            "encoder.layer.11.output.dense.bias": (4,),
            "pooler.dense.weight": (4, 4),
        }.items()
    }
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"hidden_size": 4}))
    (source / "1_Pooling").mkdir()
    return source


def test_layers_weights_alone_are_rounded(folder, tmp_path):
    written = write_int8_folder(folder, tmp_path / "int8")
    before = load_file(folder / "model.safetensors")
    after = load_file(written / "model.safetensors")
    rounded = {"layers.0.mlp.up_proj.weight", "encoder.layer.11.output.dense.weight"}
    assert set(after) == set(before) | {f"{name}_scale" for name in rounded}
    for name, tensor in before.items():
        if name not in rounded:
            assert np.array_equal(after[name], tensor)
            continue
        codes, scale = after[name], after[f"{name}_scale"]
        assert (codes.dtype, scale.dtype) == (np.int8, np.float32)
        assert scale.shape == (len(tensor), 1)
        assert np.abs(codes * scale - tensor.astype(np.float32)).max() <= scale.max() / 2 * 1.001
        assert (np.abs(codes).max(axis=1) == 127).all()
    config = json.loads((written / "config.json").read_text())
    assert config["hidden_size"] == 4
    scheme = config["quantization_config"]["config_groups"]["group_0"]
    assert scheme["weights"]["strategy"] == "channel"
    assert scheme["input_activations"]["strategy"] == "token"
    assert (written / "1_Pooling").is_dir()
    assert write_int8_folder(folder, tmp_path / "int8") == written  # once


def test_a_channel_of_zeros_stays_one():
    codes, scale = round_channels(np.array([[0.0, 0.0], [2.0, -4.0]], np.float32))
    assert codes.tolist() == [[0, 0], [64, -127]]
    assert np.isfinite(scale).all()
