"""A user's own model: what its sentence-transformers files say, and what they leave open."""

import dataclasses
import json

import pytest
from tokenizers import Tokenizer, processors

from lasttoken_export import cli
from lasttoken_export.catalogue import Licence, entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.commands import export as export_command
from lasttoken_export.errors import AmbiguousModel, CorruptFile, InvalidOption
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.folder_contract import entry_of_folder
from lasttoken_export.model_entry import find_entry
from unit.export.checkpoints import CONFIG, tensors, write_folder
from unit.tokenizer.small import byte_ids, byte_level_tokenizer

BYTES_CONFIG = {**CONFIG, "vocab_size": 259}
MODULES = ("Transformer", "Pooling", "Normalize")


def tokenizer_with(template):
    tokenizer = Tokenizer.from_str(byte_level_tokenizer())
    special = [("<s>", 256), ("</s>", 257)]
    if template is None:
        template = "$A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[pair for pair in special if pair[0] in template]
    )
    return tokenizer.to_str()


@pytest.fixture
def folder(tmp_path):
    folder = write_folder(tmp_path / "My Model_1.5", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(tokenizer_with("<s> $A </s>"))
    write_modules(folder, MODULES)
    write_pooling(folder, {"pooling_mode_lasttoken": True, "pooling_mode_cls_token": False})
    return folder


def write_modules(folder, kinds):
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "",
         "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))


def write_pooling(folder, config):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))


def read(folder):
    return entry_of_folder(folder, open_checkpoint(folder))


def test_the_files_of_the_folder_decide(folder):
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "Q: "}, "default_prompt_name": None})
    )
    entry = read(folder)
    assert (entry.name, entry.triton_name) == ("my-model-1.5", "my_model_1_5")
    assert (entry.pooling, entry.attention, entry.dimensions) == ("last_token", "causal", 32)
    assert entry.max_length == 12
    assert entry.tokenizer["prompts"] == {"query": "Q: {text}"}
    assert entry.tokenizer["sequence"] == ["<s>", "$A", "</s>"]
    assert entry.tokenizer["special_tokens"] == {"<s>": 256, "</s>": 257}
    cake = entry.tokenizer["golden"][1]
    assert cake["ids"] == [256, *byte_ids(cake["text"]), 257]


def test_it_is_exported_with_no_entry(folder, tmp_path):
    export_model(
        open_checkpoint(folder), read(folder), ExportOptions(output=tmp_path / "repository")
    )
    names = {path.name for path in (tmp_path / "repository").iterdir()}
    assert "my_model_1_5" in names


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "lasttoken", "include_prompt": True}, "last_token"),
    ],
)
def test_each_spelling_of_pooling(folder, config, pooling):
    write_pooling(folder, config)
    assert read(folder).pooling == pooling


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode": "max"}, r"pools by \['max'\]"),
        ({"pooling_mode": ["cls", "mean"]}, "exactly one"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "exactly one"),
        ({}, "exactly one"),
        ({"pooling_mode": "mean", "include_prompt": False}, "leaves the prompt out"),
    ],
)
def test_pooling_that_is_not_served_is_refused(folder, config, message):
    write_pooling(folder, config)
    with pytest.raises(AmbiguousModel, match=message):
        read(folder)


@pytest.mark.parametrize("kinds", [("Transformer",), (*MODULES, "Dense"), ("CLIPModel",)])
def test_modules_that_are_not_served_are_refused(folder, kinds):
    write_modules(folder, kinds)
    with pytest.raises(AmbiguousModel, match="only Transformer, Pooling and Normalize"):
        read(folder)


def test_a_folder_that_says_nothing_is_refused(folder, capsys, tmp_path):
    (folder / "modules.json").unlink()
    with pytest.raises(AmbiguousModel, match="--like NAME"):
        read(folder)
    assert cli.main([str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "AmbiguousModel" in capsys.readouterr().err


@pytest.mark.parametrize("template", ["<s> $A", None])
def test_last_token_pooling_without_a_last_token_is_refused(folder, template):
    (folder / "tokenizer.json").write_text(tokenizer_with(template))
    with pytest.raises(AmbiguousModel, match="lack the EOS"):
        read(folder)
    write_pooling(folder, {"pooling_mode": "mean"})
    assert read(folder).tokenizer["sequence"] == (["<s>", "$A"] if template else ["$A"])


def test_a_broken_file_is_named(folder):
    (folder / "modules.json").write_text("[")
    with pytest.raises(CorruptFile, match=r"modules\.json"):
        read(folder)


def test_like_gives_contract_and_prompts_and_nothing_else(folder):
    found, like = find_entry(str(folder), "bge-m3", open_checkpoint(folder)), entry("bge-m3")
    assert found == dataclasses.replace(like, weights_of="my-model-1.5", licence=Licence(
        id="unknown", note="see the model's own card"
    ))  # fmt: skip


@pytest.mark.parametrize("model", ["all-minilm-l6-v2", "BAAI/bge-m3"])
def test_a_model_of_the_catalogue_is_like_itself_only(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export_command, "open_model", lambda *_, **__: pytest.fail("downloaded"))
    words = [model, "--output", str(tmp_path / "out"), "--like"]
    assert cli.main([*words, "smollm2-135m"]) == 2
    assert f"{model!r} is in the catalogue and is served by its own" in capsys.readouterr().err
    assert find_entry("all-minilm-l6-v2", "all-minilm-l6-v2", None).weights_of is None
    assert find_entry("BAAI/bge-m3", "bge-m3", None).licence == entry("bge-m3").licence


def test_like_must_be_in_the_catalogue(folder, tmp_path):
    with pytest.raises(InvalidOption, match="'nothing' is not in the catalogue"):
        find_entry(str(folder), "nothing", open_checkpoint(folder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "m.M"}}, "brings code of its own"),
        ("config_sentence_transformers.json", {"truncate_dim": 16}, "cuts its vectors to 16"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "lowers its texts"),
    ],
)
def test_what_would_change_the_vector_unseen_is_refused(folder, file, content, message):
    before = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(before | content))
    with pytest.raises(AmbiguousModel, match=message):
        read(folder)


def test_a_decoder_with_code_of_its_own_may_say_how_it_attends(folder):
    config = {**BYTES_CONFIG, "auto_map": {"AutoModel": "m.M"}, "is_causal": False}
    (folder / "config.json").write_text(json.dumps(config))
    assert read(folder).attention == "bidirectional"


def test_lengths_may_matter_only_where_vectors_are_normalised(folder):
    settings = folder / "config_sentence_transformers.json"
    settings.write_text('{"similarity_fn_name": "dot", "truncate_dim": 32}')
    read(folder)
    write_modules(folder, MODULES[:2])
    with pytest.raises(AmbiguousModel, match="by 'dot'; only L2-normalised"):
        read(folder)
    settings.write_text('{"similarity_fn_name": "cosine"}')
    read(folder)
