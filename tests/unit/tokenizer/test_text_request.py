import re

import numpy as np
import pytest
from text_request import TextLimits, check_tokens, pad_rows, read_texts
from text_tokenizer import TokenizedText
from tokenizer_errors import InvalidContract, InvalidText
from tokenizer_settings import parse_settings

from unit.tokenizer.small import make_contract

LIMITS = TextLimits(max_text_bytes=10, max_texts_per_request=3, refuse_overflow=False)


def column(*values):
    return np.array([[value] for value in values], dtype=object).reshape(len(values), 1)


def read(text, prompt_name=None, instruction=None):
    return [t.text for t in read_texts(make_contract(), LIMITS, text, prompt_name, instruction)]


def row(*ids, truncated=False):
    return TokenizedText(np.array(ids, np.int32), truncated)


def test_prompts_may_differ_by_row():
    found = read(column(b"a", b"b", "é".encode()), column(b"query", b"", b"wrapped"))
    assert found == ["Q: a", "b", "[é] is"]


@pytest.mark.parametrize(
    ("text", "prompt_name", "message", "reason"),
    [
        (column(b"ok", b"\xff\xfe"), None, "TEXT 1 is not UTF-8 (byte 0xff at 0)", "encoding"),
        (column(b"\xed\xa0\x80"), None, "not UTF-8", "encoding"),  # a lone surrogate
        (column(b"x" * 11), None, "TEXT 0 has 11 bytes, the limit is 10", "too_long"),
        (column(), None, "at least one text", "shape"),
        (np.array([b"a"], dtype=object), None, "shape [1]", "shape"),
        (column(b"a", b"b"), column(b"query"), "PROMPT_NAME has shape [1, 1]", "shape"),
        (column(b"a", b"b", b"c", b"d"), None, "4 texts, this model takes 3 a request", "shape"),
        (column(b"a"), column(b"\xff"), "PROMPT_NAME 0 is not UTF-8", "encoding"),
        (column(b"a"), column(b"nope"), "PROMPT_NAME is 'nope'", "prompt"),
    ],
)
def test_bad_requests_say_what_is_wrong(text, prompt_name, message, reason):
    with pytest.raises(InvalidText, match=re.escape(message)) as error:
        read(text, prompt_name)
    assert error.value.reason == reason


def test_rows_without_tokens_are_refused():
    with pytest.raises(InvalidText, match="text 1 is empty"):
        check_tokens(make_contract(), LIMITS, [row(1), row()])


def test_overflow_is_refused_where_that_is_configured():
    rows = [row(1), row(1, 2, truncated=True)]
    check_tokens(make_contract(), LIMITS, rows)
    strict = TextLimits(max_text_bytes=10, max_texts_per_request=3, refuse_overflow=True)
    with pytest.raises(InvalidText, match="text 1 is longer than 40 tokens"):
        check_tokens(make_contract(), strict, rows)


def test_rows_are_padded_with_their_lengths_beside_them():
    ids, lengths, truncated = pad_rows([row(5), row(7, 8, 9, truncated=True)])
    assert ids.tolist() == [[5, 0, 0], [7, 8, 9]]
    assert (ids.dtype, lengths.dtype, truncated.dtype) == (np.int32, np.int32, np.bool_)
    assert lengths.tolist() == [[1], [3]]
    assert truncated.tolist() == [[False], [True]]


def settings(**changes):
    values = {
        "max_text_bytes": "10",
        "max_texts_per_request": "3",
        "on_overflow": "truncate",
        **changes,
    }
    return parse_settings({name: {"string_value": value} for name, value in values.items()})


def test_settings():
    assert settings() == LIMITS
    assert settings(on_overflow="refuse").refuse_overflow
    for changes in (
        {"max_text_bytes": "0"},
        {"max_text_bytes": "ten"},
        {"max_text_bytes": "-1"},
        {"max_texts_per_request": "0"},
        {"on_overflow": "cut"},
        {"colour": "red"},
    ):
        with pytest.raises(InvalidContract, match=next(iter(changes))):
            settings(**changes)
