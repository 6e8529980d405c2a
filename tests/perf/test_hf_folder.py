"""The folder that torch-based peers load: a copy in fp32, with all that they ask for."""

import json

import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_perf.hf_folder import write_peer_folder
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG, make_entry
from unit.tokenizer.small import byte_level_tokenizer


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_of_the_hub_is_copied_and_asks_for_fp32(tmp_path, dtype):
    config = {**BYTES_CONFIG, "torch_dtype": dtype}
    snapshot = write_folder(tmp_path / "hub", tensors(config), config=config)
    (snapshot / "tokenizer.json").write_text(byte_level_tokenizer())
    entry = make_entry()  # of the hub
    folder = write_peer_folder(
        open_checkpoint(snapshot), entry, tmp_path / "peer", cache_folder=tmp_path
    )
    weights = [path.name for path in snapshot.glob("*.safetensors")]
    assert all((folder / name).is_file() for name in [*weights, "tokenizer.json"])
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"
    assert json.loads((snapshot / "config.json").read_text())["torch_dtype"] == dtype
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert pooling["pooling_mode_lasttoken"] is True
    assert pooling["word_embedding_dimension"] == config["hidden_size"]
