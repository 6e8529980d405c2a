import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompts import PromptedText
from text_tokenizer import TextTokenizer
from tokenizer_errors import InvalidContract
from tokenizers import Tokenizer, processors

from unit.tokenizer.small import byte_ids, byte_level_tokenizer, make_contract

FLAGS = [
    {},
    {"lstrip": True, "rstrip": True},
    {"normalized": True},
    {"single_word": True},
]


def make(flags=None, **changes):
    return TextTokenizer(make_contract(**changes), byte_level_tokenizer(**(flags or {})))


def ids(tokenizer, text, suffix=""):
    [row] = tokenizer.encode([PromptedText(text, suffix)])
    return row.ids.tolist()


def test_the_contract_decides_and_not_the_file():
    """The file adds only <s>, cuts at five tokens and pads to twenty."""
    assert ids(make(), "hello world") == [256, *byte_ids("hello world"), 257]
    bare = make(sequence=["$A"], special_tokens={},
                golden=[{"text": "a", "prompt_name": None, "ids": byte_ids("a")}])  # fmt: skip
    assert ids(bare, "hello") == byte_ids("hello")
    assert ids(make(), "") == [256, 257]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("text", ["</s>", "a</s>b", " <s> ", "</s></s>", "x <s>y"])
def test_special_tokens_in_a_text_are_text(flags, text):
    assert ids(make(flags), text) == [256, *byte_ids(text), 257]


@given(st.text(max_size=20))
def test_any_text_between_special_tokens_is_its_bytes(text):
    found = ids(_PLAIN, text)
    if "<mark>" not in text:
        assert found == [256, *byte_ids(text), 257]


_PLAIN = make(max_length=500)


def test_added_tokens_that_are_not_special_are_matched():
    assert ids(make(), "a<mark>b") == [256, *byte_ids("a"), 258, *byte_ids("b"), 257]


@pytest.mark.parametrize("length", [3, 37, 38, 39, 40, 200])
def test_truncation_is_that_of_the_library_and_keeps_the_eos(length):
    text = ("abcdefghij" * 20)[:length]
    library = Tokenizer.from_str(byte_level_tokenizer())
    library.no_padding()
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    library.enable_truncation(40)
    [row] = make().encode([PromptedText(text)])
    assert row.ids.tolist() == library.encode(text).ids
    assert row.ids[-1] == 257
    assert row.truncated == (length > 38)


def test_a_maximum_length_below_a_golden_text_says_nothing_of_the_tokenizer():
    assert ids(make(max_length=6), "the cat sat") == [256, *byte_ids("the "), 257]
    wrong = [256, *byte_ids("the cat"), 256]
    with pytest.raises(InvalidContract, match="gives the ids"):
        make(max_length=6, golden=[{"text": "the cat", "prompt_name": None, "ids": wrong}])


def test_truncation_keeps_what_the_prompt_puts_behind_the_text():
    found = ids(make(), "[" + "x" * 100 + "] is", suffix="] is")
    assert len(found) == 40
    assert found[-5:] == [*byte_ids("] is"), 257]
    assert found[:3] == [256, *byte_ids("[x")]


def test_a_suffix_longer_than_the_row_leaves_room_for_text():
    found = ids(make(), "abc" + "y" * 100, suffix="y" * 100)
    assert len(found) == 40
    assert found[:4] == [256, *byte_ids("abc")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"special_tokens": {"<s>": 1, "</s>": 257}}, "'<s>' has id 256 in .* says 1"),
        (
            {"sequence": ["$A", "</x>"], "special_tokens": {"</x>": 9}},
            "'</x>' has id None",
        ),
        (
            {"golden": [{"text": "cat", "prompt_name": None, "ids": [256, 1, 2, 3, 257]}]},
            r"'cat' .* gives the ids \(256, .*the contract says \(256, 1, 2, 3, 257\)",
        ),
        ({"sequence": ["$A", "<s>", "</s>"]}, "gives the ids"),
    ],
)
def test_another_models_tokenizer_is_not_loaded(changes, message):
    with pytest.raises(InvalidContract, match=message):
        make(**changes)


def test_a_file_that_is_no_tokenizer_is_refused():
    with pytest.raises(InvalidContract, match=r"tokenizer\.json cannot be read"):
        TextTokenizer(make_contract(), '{"version": "1.0"}')


def test_long_texts_are_not_all_tokenized_at_once(monkeypatch):
    """What the library keeps of them, also beyond the maximum, is freed in between."""
    tokenizer = make()
    calls = []

    class Recorded:
        def __init__(self, library):
            self._library = library

        def encode_batch_fast(self, texts):
            calls.append([len(text) for text in texts])
            return self._library.encode_batch_fast(texts)

    monkeypatch.setattr(tokenizer, "_tokenizer", Recorded(tokenizer._tokenizer))
    monkeypatch.setattr("text_tokenizer._CHARACTERS_AT_ONCE", 10)
    texts = ["a" * 4, "b" * 6, "c" * 30, "d", "e" * 9, "", "f"]
    rows = tokenizer.encode([PromptedText(text) for text in texts])
    assert calls == [[4, 6], [30], [1, 9, 0], [1]]
    assert [row.ids.tolist() for row in rows] == [[256, *byte_ids(text), 257] for text in texts]
    assert tokenizer.encode([]) == []
