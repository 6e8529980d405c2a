"""The user's calibration texts: what a file may hold, and what is said of one that is damaged."""

import json

import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_export.quantisation.texts import read_texts

TEXTS = ["a\u2028b\x0b", "c\x85\x1cd", "e\u2029f", "日本語"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_text_may_hold_any_character_that_is_one(tmp_path, encoding, line_end):
    path = tmp_path / "texts.jsonl"
    values = [TEXTS[0], *({"text": text} for text in TEXTS[1:])]
    lines = line_end.join(json.dumps(value, ensure_ascii=False) for value in values)
    path.write_bytes(f"{lines}{line_end}{line_end}".encode(encoding))
    assert read_texts(path) == TEXTS


def test_plain_texts_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\n\ntwo\n", encoding="utf-8-sig")
    assert read_texts(path) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"\\ud800"', "spells half a surrogate pair"),
        ('{"text": "a\\udfff"}', "spells half a surrogate pair"),
        ('{"text": 3}', "neither a string nor an object"),
        ("[" * 100_000, "a line that is no JSON"),
        ('{"text": "cut', "a line that is no JSON"),
        ("\n\n", "holds no calibration texts"),
        ('""\n{"text": " "}\n"\\n"', "holds no calibration texts"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, content, said):
    path = tmp_path / "texts.jsonl"
    path.write_text(content)
    with pytest.raises(InvalidOption, match=said):
        read_texts(path)
