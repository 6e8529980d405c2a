import pytest

from lasttoken_export.catalogue import entry, load_catalogue, parse_entry, prompts_with_tasks
from lasttoken_export.errors import InvalidCatalogue, InvalidOption
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.server_modules import server_module

DATA = {
    "name": "tiny",
    "source": {"kind": "hub", "id": "a/b", "revision": None},
    "licence": {"id": "mit", "note": ""},
    "pooling": "last_token",
    "layer_norm": False,
    "dimensions": 4,
    "matryoshka": None,
    "attention": "causal",
    "precisions": ["fp32"],
    "tokenizer": {"model": "tiny", "max_length": 7},
    "quality": [],
    "golden_scores": None,
    "notes": "",
}
SHAPE = {"num_layers": 2, "num_heads": 4, "source": "its config.json"}


def test_the_shipped_entries_are_whole():
    catalogue = load_catalogue()
    assert {"sfr-embedding-mistral", "e5-mistral-7b-instruct", "smollm2-135m"} <= set(catalogue)
    parse = server_module(TOKENIZER, "contract").parse_contract
    for name, loaded in catalogue.items():
        contract = parse(loaded.tokenizer)
        assert loaded.name == contract.model == name
        for golden in contract.golden:
            ids = golden.ids
            opening = contract.sequence[: contract.sequence.index("$A")]
            assert ids[: len(opening)] == tuple(contract.special_tokens[t] for t in opening)
            assert ids[len(ids) - len(contract.closing_ids) :] == contract.closing_ids
        if loaded.source["kind"] == "hub":
            assert len(loaded.source["revision"]) == 40, "not pinned to a commit"


def test_sfr_is_what_its_card_says():
    sfr = entry("sfr-embedding-mistral")
    assert sfr.triton_name == "sfr_embedding_mistral"
    assert (sfr.dimensions, sfr.max_length) == (4096, 4096)
    assert sfr.licence.id == "cc-by-nc-4.0"
    assert "research only" in sfr.licence.note


def test_each_task_is_a_prompt_of_models_that_take_instructions():
    prompts = prompts_with_tasks(entry("sfr-embedding-mistral").tokenizer)
    assert len(prompts) > 70
    assert prompts["Banking77Classification"] == (
        "Instruct: Given a online banking query, find the corresponding intents\nQuery: {text}"
    )
    assert prompts["query"] == entry("sfr-embedding-mistral").tokenizer["prompts"]["query"]
    qwen = prompts_with_tasks(entry("qwen3-embedding-8b").tokenizer)
    assert qwen["STS"] == "Instruct: Retrieve semantically similar text.\nQuery:{text}"
    assert set(prompts_with_tasks(entry("bge-m3").tokenizer)) == {"query", "document"}
    for loaded in load_catalogue().values():
        data = {**loaded.tokenizer, "prompts": prompts_with_tasks(loaded.tokenizer)}
        server_module(TOKENIZER, "contract").parse_contract(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"attention": "sideways"}, "attention is 'sideways'"),
        ({"source": {"kind": "ftp"}}, "known kinds"),
        ({"source": {"kind": "hub", "id": "a/b"}}, "known kinds"),
        ({"licence": {"id": "mit"}}, "licence must have"),
        ({"precisions": []}, "precisions are"),
        ({"precisions": ["fp64"]}, "precisions are"),
        ({"matryoshka": {"minimum": 5}}, "matryoshka is"),
        ({"matryoshka": {"dimensions": [2, 0]}}, "matryoshka is"),
        ({"matryoshka": {"any": True}}, "matryoshka is"),
        ({"tokenizer": {"model": "other"}}, "names another model"),
        ({"published_shape": [2, 4]}, "published_shape is"),
        ({"published_shape": {"num_layers": 2, "num_heads": 4}}, "published_shape is"),
        ({"published_shape": {**SHAPE, "num_heads": 0}}, "from 1"),
        ({"published_shape": {**SHAPE, "num_layers": True}}, "from 1"),
        ({"published_shape": {**SHAPE, "source": ""}}, "published_shape is"),
        ({"published_shape": {**SHAPE, "rope_theta": 0}}, "published_shape is"),
        ({"published_shape": {**SHAPE, "base": 7}}, "published_shape is"),
    ],
)
def test_malformed_entries_are_refused(changes, message):
    parse_entry(DATA)
    with pytest.raises(InvalidCatalogue, match=message):
        parse_entry({**DATA, **changes})


def test_the_published_shape_may_be_unknown():
    assert parse_entry(DATA).published_shape is None
    assert parse_entry({**DATA, "published_shape": None}).published_shape is None
    assert parse_entry({**DATA, "published_shape": SHAPE}).published_shape == SHAPE
    rotated = {**SHAPE, "rope_theta": 10_000}
    assert parse_entry({**DATA, "published_shape": rotated}).published_shape == rotated


def test_an_unknown_name_lists_the_known():
    with pytest.raises(InvalidOption, match=r"'sfr' is not in the catalogue.*smollm2-135m"):
        entry("sfr")
