import pytest
from contract import load_contract, parse_contract
from tokenizer_errors import InvalidContract

from unit.tokenizer.small import contract_data, make_contract


def test_a_contract_knows_what_closes_a_text():
    assert make_contract().closing_ids == (257,)
    assert make_contract(sequence=["$A"], special_tokens={}).closing_ids == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence": ["<s>", "</s>"]}, "once"),
        ({"sequence": ["$A", "$A"]}, "once"),
        ({"special_tokens": {"<s>": 256}}, "the id of each"),
        ({"special_tokens": {"<s>": 256, "</s>": 257, "<x>": 1}}, "of no other"),
        ({"max_length": 2}, "max_length is 2"),
        ({"prompts": {"query": "no place"}}, "'query' is 'no place'"),
        ({"prompts": {"query": "{text}{text}"}}, "once"),
        ({"default_prompt_name": "passage"}, r"'passage'; the prompts are"),
        ({"instruction_template": "{text} {instruction}"}, "behind it"),
        ({"instruction_template": "Query: {text}"}, "instruction"),
        ({"golden": []}, "golden is empty"),
        ({"golden": [{"text": "a"}]}, "golden holds"),
        ({"colour": "red"}, r"unknown keys \['colour'\]"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(InvalidContract, match=message):
        parse_contract(contract_data(**changes))


def test_missing_keys_are_named():
    data = contract_data()
    del data["golden"]
    with pytest.raises(InvalidContract, match=r"lacks \['golden'\]"):
        parse_contract(data)


def test_a_damaged_file_says_what_to_do(tmp_path):
    path = tmp_path / "contract.json"
    path.write_text('{"model": ')
    with pytest.raises(InvalidContract, match=r"contract\.json is not JSON.*export"):
        load_contract(path)
