"""Any string and any bytes for the tokenizer: rows within the contract, or a refusal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompts import apply_prompt
from text_request import TextLimits, check_tokens, pad_rows, read_texts
from text_tokenizer import TextTokenizer
from tokenizer_errors import InvalidText

from fuzz.bounds import bounded, fuzzed
from lasttoken import InvalidInput
from lasttoken.encoding import check_texts
from unit.tokenizer.small import byte_level_tokenizer, make_contract

LIMITS = TextLimits(max_text_bytes=100_000, max_texts_per_request=8, refuse_overflow=False)
CONTROL = st.sampled_from(
    ("\0", "\x1b", "\x7f", "\u202e", "\u200d", "\ufeff", "\ufffd", "\U0010ffff")
)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200) | st.lists(
    st.text(max_size=5) | CONTROL | st.sampled_from(("<s>", "</s>", "<mark>", "{text}", "$A", "▁"))
).map("".join)
SURROGATES = st.text(st.characters(categories=["Cs", "L", "Cc"]), max_size=50)
NAMES = st.none() | st.sampled_from(("", "query", "wrapped", "other")) | ANY_TEXT


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(make_contract(), byte_level_tokenizer())


@fuzzed(200)
@given(text=ANY_TEXT | SURROGATES)
def test_a_clients_texts_are_utf8_or_refused(text):
    try:
        (encoded,) = check_texts([text])
    except InvalidInput:
        with pytest.raises(UnicodeEncodeError):
            text.encode()
    else:
        assert encoded.decode() == text


@fuzzed(300)
@given(
    rows=st.lists(st.binary(max_size=300) | ANY_TEXT.map(str.encode), min_size=1, max_size=9),
    prompt=NAMES,
    instruction=NAMES,
)
def test_any_bytes_give_rows_within_the_contract_or_a_refusal(tokenizer, rows, prompt, instruction):
    with bounded():
        reason = check(tokenizer, rows, prompt, instruction)
    assert reason in (None, "shape", "encoding", "prompt", "too_long", "empty")


def check(tokenizer, rows, prompt, instruction):
    contract = tokenizer.contract
    given_rows = np.array([[row] for row in rows], object)
    optional = [
        None if value is None else np.full((len(rows), 1), value.encode(), object)
        for value in (prompt, instruction)
    ]
    try:
        texts = read_texts(contract, LIMITS, given_rows, *optional)
        tokenized = tokenizer.encode(texts)
        check_tokens(contract, LIMITS, tokenized)
    except InvalidText as refused:
        return refused.reason
    ids, lengths, truncated = pad_rows(tokenized)
    assert ids.shape == (len(rows), lengths.max())
    for row, length, cut in zip(ids, lengths[:, 0], truncated[:, 0], strict=True):
        assert 2 <= length <= contract.max_length
        assert length == contract.max_length or not cut
        assert row[0] == 256
        assert row[length - 1] == 257
        # Nothing that a caller writes becomes a special token.
        assert not np.isin(row[1 : length - 1], (256, 257)).any()
        assert (row[length:] == 0).all()
    return None


LONG = {
    "letters": "a" * 99_000,
    "spaces": " " * 99_000,
    "special tokens": "</s>" * 24_000,
    "direction": "\u202e" * 33_000,
    "joined emoji": "\U0001f469\u200d\U0001f467" * 9_000,
    "nul": "\0" * 99_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_very_long_texts_are_cut(tokenizer, text):
    with bounded():
        assert check(tokenizer, [text.encode()], None, None) is None
        [row] = tokenizer.encode([apply_prompt(tokenizer.contract, text, prompt_name=None,
                                               instruction=None)])  # fmt: skip
    assert row.truncated
    assert len(row.ids) == tokenizer.contract.max_length


def test_a_text_beyond_the_limit_of_bytes_is_refused_before_it_is_decoded(tokenizer):
    rows = np.array([[b"\xff" * (LIMITS.max_text_bytes + 1)]], object)
    with pytest.raises(InvalidText, match="the limit is 100000"):
        read_texts(tokenizer.contract, LIMITS, rows, None, None)


def test_a_refusal_of_a_long_prompt_name_is_short(tokenizer):
    rows = np.array([[b"a"]], object)
    names = np.array([[b"x" * 90_000]], object)
    with pytest.raises(InvalidText) as caught:
        read_texts(tokenizer.contract, LIMITS, rows, names, None)
    assert len(str(caught.value)) < 1000
