import pytest
from prompts import PromptedText, apply_prompt
from tokenizer_errors import InvalidText

from unit.tokenizer.small import make_contract


def prompted(text, prompt_name=None, instruction=None, **changes):
    return apply_prompt(
        make_contract(**changes), text, prompt_name=prompt_name, instruction=instruction
    )


def test_prompts_and_what_stands_behind_the_text():
    assert prompted("cat") == PromptedText("cat", "")
    assert prompted("cat", "query") == PromptedText("Q: cat", "")
    assert prompted("cat", "wrapped") == PromptedText("[cat] is", "] is")
    assert prompted("cat", default_prompt_name="wrapped").text == "[cat] is"
    assert prompted("cat", "query", default_prompt_name="wrapped").text == "Q: cat"


def test_an_instruction_replaces_the_default_prompt():
    found = prompted("cat", instruction="Find it", default_prompt_name="wrapped")
    assert found == PromptedText("Instruct: Find it\nQuery: cat", "")


def test_braces_of_the_caller_are_text():
    assert prompted("{text} {0} {instruction}", "query").text == "Q: {text} {0} {instruction}"
    found = prompted("{instruction}", instruction="use {text} and {x}")
    assert found.text == "Instruct: use {text} and {x}\nQuery: {instruction}"


def test_empty_names_mean_none():
    assert prompted("cat", "", "").text == "cat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_name": "passage"}, r"'passage'; small has \['query', 'wrapped'\]"),
        ({"prompt_name": "query", "instruction": "x"}, "send one of them"),
        ({"instruction": "x", "instruction_template": None}, "takes no INSTRUCTION"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(InvalidText, match=message) as error:
        prompted("cat", **arguments)
    assert error.value.reason == "prompt"


def test_of_many_prompts_the_nearest_are_named():
    prompts = {f"Task{number}Retrieval": "{text}" for number in range(50)}
    contract = make_contract(prompts={**prompts, "Banking77": "{text}"})
    with pytest.raises(InvalidText, match=r"has \['Banking77'\] and 50 more, which its card"):
        apply_prompt(contract, "a", prompt_name="banking7", instruction=None)
