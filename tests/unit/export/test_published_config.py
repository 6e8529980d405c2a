"""Settings that the checkpoint's tensors cannot contradict: attention heads, rotary base."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from lasttoken_export import cli
from lasttoken_export.catalogue import load_catalogue
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.encoder_config import EncoderConfig
from lasttoken_export.errors import HeadsMismatch, RotaryBaseMismatch, TokenizerMismatch
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.padded import exporter as padded_exporter
from lasttoken_export.padded.transformers_folder import TransformersFolder
from lasttoken_export.published_config import check_published_config
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG, make_entry
from unit.tokenizer.small import byte_level_tokenizer

PUBLISHED = {"num_layers": 2, "num_heads": 4, "source": "its config.json"}
OTHER_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
"""Of BYTES_CONFIG, whose tensors have the same shapes."""


def write(folder, **changes):
    config = {**BYTES_CONFIG, **changes}
    write_folder(folder, tensors(config), config=config)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


def without(config, key):
    return {name: value for name, value in config.items() if name != key}


def published_entry(**changes):
    return dataclasses.replace(make_entry(), published_shape={**PUBLISHED, **changes})


def checkpoint_like(entry, **changes):
    config = {"hidden_size": entry.dimensions, "num_layers": entry.published_shape["num_layers"],
              "num_heads": entry.published_shape["num_heads"],
              "rope_theta": entry.published_shape.get("rope_theta")}  # fmt: skip
    return SimpleNamespace(location="m", config=SimpleNamespace(**config | changes))


def test_every_shipped_entry_knows_its_heads():
    for entry in load_catalogue().values():
        heads = entry.published_shape["num_heads"]
        check_published_config(checkpoint_like(entry), entry)
        with pytest.raises(HeadsMismatch, match=rf"m: .*{2 * heads} .* has {heads} \(.*config"):
            check_published_config(checkpoint_like(entry, num_heads=2 * heads), entry)


ROTATED = {
    name: entry for name, entry in load_catalogue().items()
    if name not in ("all-minilm-l6-v2", "bge-m3")  # whose positions are learned
}  # fmt: skip


@pytest.mark.parametrize("name", ROTATED)
def test_every_shipped_entry_knows_its_rotary_base(name):
    entry = ROTATED[name]
    base = entry.published_shape["rope_theta"]
    with pytest.raises(RotaryBaseMismatch, match=rf"m: .*base 7,.* has {base} \(.*config"):
        check_published_config(checkpoint_like(entry, rope_theta=7.0), entry)


@pytest.mark.parametrize(
    "smaller", [{"num_layers": 1, "num_heads": 2}, {"hidden_size": 96, "num_heads": 3},
                {"num_heads": None}, {"num_layers": 1, "rope_theta": 7.0},
                {"hidden_size": 96, "rope_theta": 7.0}, {"rope_theta": None}],
)  # fmt: skip
def test_a_smaller_model_served_like_an_entry_has_settings_of_its_own(smaller):
    entry = load_catalogue()["smollm2-135m"]
    check_published_config(checkpoint_like(entry, **smaller), entry)


def test_the_way_out_is_one_that_there_is():
    entry = load_catalogue()["bge-m3"]
    wrong = checkpoint_like(entry, num_heads=4)
    with pytest.raises(HeadsMismatch, match=r"restore the published configuration$"):
        check_published_config(wrong, entry)
    with pytest.raises(HeadsMismatch, match="or leave out --like"):
        check_published_config(wrong, dataclasses.replace(entry, weights_of="my-model"))


def test_an_export_with_other_heads_is_refused_though_all_tensors_fit(tmp_path):
    right, wrong = write(tmp_path / "right"), write(tmp_path / "wrong", **OTHER_HEADS)
    assert open_checkpoint(right).config.tensor_shapes() == (
        open_checkpoint(wrong).config.tensor_shapes()
    )
    options = ExportOptions(output=tmp_path / "repository")
    with pytest.raises(HeadsMismatch, match=r"8 attention heads.*has 4"):
        export_model(open_checkpoint(wrong), published_entry(), options)
    assert not options.output.exists()
    export_model(open_checkpoint(right), published_entry(), options)


def test_a_padded_export_with_other_heads_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(padded_exporter, "optimum_python", lambda *_, **__: pytest.fail("ran"))
    folder = TransformersFolder(write(tmp_path / "wrong", **OTHER_HEADS))
    options = ExportOptions(output=tmp_path / "repository")
    with pytest.raises(HeadsMismatch):
        padded_exporter.export_padded_model(folder, published_entry(), options)


def test_a_configuration_that_has_lost_its_rotary_base_is_refused(tmp_path):
    with_base = {**BYTES_CONFIG, "rope_theta": 5e5}
    right, lost = write(tmp_path / "right", **with_base), tmp_path / "lost"
    write_folder(lost, tensors(with_base), config=without(BYTES_CONFIG, "rope_theta"))
    (lost / "tokenizer.json").write_text(byte_level_tokenizer())
    options = ExportOptions(output=tmp_path / "repository")
    with pytest.raises(RotaryBaseMismatch, match=r"base 10000, or says none.*has 500000"):
        export_model(open_checkpoint(lost), published_entry(rope_theta=500_000), options)
    assert not options.output.exists()
    export_model(open_checkpoint(right), published_entry(rope_theta=500_000), options)


@pytest.mark.parametrize(
    ("config", "base"),
    [({}, None), ({"rope_theta": 7}, 7.0), ({"rotary_emb_base": 7}, 7.0),
     ({"rope_parameters": {"rope_theta": 7}}, 7.0)],
)  # fmt: skip
def test_the_rotary_base_of_any_architecture(tmp_path, config, base):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 9, "n_positions": 8}
    (tmp_path / "config.json").write_text(json.dumps(sizes | config))
    assert TransformersFolder(tmp_path).config.rope_theta == base


@pytest.mark.parametrize("key", ["num_attention_heads", "n_heads", "n_head"])
def test_the_heads_of_any_architecture(tmp_path, key):
    config = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 9,
              "max_position_embeddings": 8}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert TransformersFolder(tmp_path).config.num_heads is None
    (tmp_path / "config.json").write_text(json.dumps({**config, key: 4}))
    assert TransformersFolder(tmp_path).config.num_heads == 4


def minilm_folder(folder, *, heads, layers=6):
    """all-MiniLM-L6-v2's shape, with a small vocabulary, random weights and a byte tokenizer."""
    import numpy as np

    config = {"architectures": ["BertModel"], "hidden_size": 384, "num_hidden_layers": layers,
              "num_attention_heads": heads, "intermediate_size": 32, "vocab_size": 259,
              "max_position_embeddings": 256, "hidden_act": "gelu"}  # fmt: skip
    shapes = EncoderConfig.from_hugging_face(config).tensor_shapes()
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_folder(folder, weights, config=config)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


def test_the_command_line_names_the_heads(tmp_path, capsys):
    words = ["--like", "all-minilm-l6-v2", "--output", str(tmp_path / "repository")]
    assert cli.main([str(minilm_folder(tmp_path / "wrong", heads=6)), *words]) == 1
    said = capsys.readouterr().err
    assert HeadsMismatch.__name__ in said
    assert "says 6 attention heads" in said
    # The right heads, and a smaller model with its own, come as far as the tokenizer.
    for name, shape in {"right": {"heads": 12}, "small": {"heads": 6, "layers": 2}}.items():
        assert cli.main([str(minilm_folder(tmp_path / name, **shape)), *words]) == 1
        assert TokenizerMismatch.__name__ in capsys.readouterr().err
