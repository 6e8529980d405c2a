"""SFR's tokenizer contract with the real Mistral SentencePiece model, against SentencePiece."""

import hashlib
import json
import random
from pathlib import Path

import mistral_common
import pytest
import sentencepiece

from lasttoken_export.catalogue import entry
from lasttoken_export.model_sources import TOKENIZER
from lasttoken_export.server_modules import server_module
from lasttoken_export.tokenizer.sentencepiece_file import tokenizer_json_from_sentencepiece
from lasttoken_perf.corpus import long_tailed_texts

MODEL_FILE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
RANGES = {
    "ASCII": (0x20, 0x7E),
    "control": (0x00, 0x1F),
    "Latin": (0xA0, 0x24F),
    "combining": (0x300, 0x36F),
    "Greek and Cyrillic": (0x370, 0x52F),
    "Hebrew and Arabic": (0x590, 0x6FF),
    "Devanagari": (0x900, 0x97F),
    "Thai": (0xE00, 0xE7F),
    "punctuation": (0x2000, 0x206F),
    "kana": (0x3040, 0x30FF),
    "CJK": (0x4E00, 0x9FFF),
    "Hangul": (0xAC00, 0xD7A3),
    "private": (0xE000, 0xE0FF),
    "emoji": (0x1F300, 0x1FAFF),
    "CJK extension": (0x20000, 0x20100),
}
BY_HAND = [
    "",
    " ",
    "   ",
    "\n",
    "\t \r\n ",
    "a",
    " a",
    "  a",
    "a ",
    "a  b   c    d",
    "</s>",
    "<s>",
    "<unk>",
    "before </s> after<s>and</s></s>",
    "<0x0A>",
    "▁",
    "▁▁a▁b",
    "\u00a0no-break\u2003em\u3000ideographic",
    "\x00",
    "a\x00b\x00",
    "\x7f\x1b[31mred\x1b[0m",
    "e\u0301 é \u0301alone a\u0301\u0302\u0303",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 ☕️",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "مرحبا \u202eעברית\u202c",
    "\ufeffbyte order mark",
    "\ufffd\ufffe",
    "١٢٣ 123 ⅷ ²",
    "x" * 5000,
    " " * 15,
    " " * 16,
    " " * 17,
    "code:\n" + " " * 37 + "return x",
    " " * 5000,
    "\n\n\n\n" * 300,
    "日" * 3000,
]


@pytest.fixture(scope="module")
def sentencepiece_model():
    assert hashlib.sha256(MODEL_FILE.read_bytes()).hexdigest().startswith("dadfd56d")
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL_FILE))


@pytest.fixture(scope="module")
def tokenizer_json():
    return tokenizer_json_from_sentencepiece(MODEL_FILE)


def tokenizer_for(tokenizer_json, **changes):
    contract = server_module(TOKENIZER, "contract").parse_contract(
        {**entry("sfr-embedding-mistral").tokenizer, **changes}
    )
    return server_module(TOKENIZER, "text_tokenizer").TextTokenizer(contract, tokenizer_json)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_json):
    return tokenizer_for(tokenizer_json, max_length=1_000_000)


def encode(tokenizer, texts):
    prompted = server_module(TOKENIZER, "prompts").PromptedText
    return [row.ids.tolist() for row in tokenizer.encode([prompted(text) for text in texts])]


def varied_strings(count):
    randomness = random.Random(17)
    names = list(RANGES)
    strings = []
    for _ in range(count):
        scripts = randomness.sample(names, randomness.randint(1, 4))
        parts = []
        for _ in range(randomness.randint(1, 12)):
            first, last = RANGES[randomness.choice(scripts)]
            length = randomness.randint(1, 6)
            parts.append("".join(chr(randomness.randint(first, last)) for _ in range(length)))
        joiner = randomness.choice(["", " ", "  ", "\n", "▁", " " * randomness.randint(3, 40)])
        strings.append(joiner.join(parts))
    return strings


@pytest.mark.parametrize("text", BY_HAND, ids=lambda text: ascii(text)[:30])
def test_by_hand(tokenizer, sentencepiece_model, text):
    assert encode(tokenizer, [text]) == [[1, *sentencepiece_model.encode(text), 2]]


def test_thousands_of_varied_strings(tokenizer, sentencepiece_model):
    texts = [*varied_strings(3000), *long_tailed_texts(300, seed=4)]
    found = encode(tokenizer, texts)
    different = [
        (text, ids, expected)
        for text, ids, expected in zip(texts, found, sentencepiece_model.encode(texts), strict=True)
        if ids != [1, *expected, 2]
    ]
    assert different == []


def test_a_very_long_text(tokenizer, sentencepiece_model):
    text = " ".join(long_tailed_texts(60, seed=9, median_words=300))[:100_000]
    assert len(text) == 100_000
    assert encode(tokenizer, [text]) == [[1, *sentencepiece_model.encode(text), 2]]


def test_truncation_keeps_the_eos(tokenizer_json, sentencepiece_model):
    tokenizer = tokenizer_for(tokenizer_json)
    text = " ".join(long_tailed_texts(20, seed=9, median_words=400))
    [ids] = encode(tokenizer, [text])
    assert len(ids) == 4096
    assert ids == [1, *sentencepiece_model.encode(text)[:4094], 2]


@pytest.mark.parametrize("name", ["sfr-embedding-mistral", "e5-mistral-7b-instruct"])
def test_the_catalogues_golden_ids_are_those_of_sentencepiece(name, sentencepiece_model):
    contract = entry(name).tokenizer
    for golden in contract["golden"]:
        template = contract["prompts"].get(golden["prompt_name"], "{text}")
        text = template.replace("{text}", golden["text"])
        assert golden["ids"] == [1, *sentencepiece_model.encode(text), 2]


def test_a_file_that_adds_no_eos_and_truncates_still_follows_the_contract(
    tokenizer_json, sentencepiece_model
):
    """What transformers 5 makes of e5-mistral: only <s> is added, and the vector is worthless."""
    data = json.loads(tokenizer_json)
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }  # fmt: skip
    data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
                          "stride": 0}  # fmt: skip
    data["padding"] = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None,
                       "pad_id": 2, "pad_type_id": 0, "pad_token": "</s>"}  # fmt: skip
    tokenizer = tokenizer_for(json.dumps(data))
    text = "How to bake a chocolate cake"
    assert encode(tokenizer, [text]) == [[1, *sentencepiece_model.encode(text), 2]]


def test_prompt_and_text_are_one_string(tokenizer_json, sentencepiece_model):
    tokenizer = tokenizer_for(tokenizer_json)
    prompts = server_module(TOKENIZER, "prompts")
    prompted = prompts.apply_prompt(
        tokenizer.contract, "how", prompt_name=None, instruction="Find it"
    )
    [row] = tokenizer.encode([prompted])
    whole = "Instruct: Find it\nQuery: how"
    assert row.ids.tolist() == [1, *sentencepiece_model.encode(whole), 2]
    apart = sentencepiece_model.encode("Instruct: Find it\nQuery: ") + sentencepiece_model.encode(
        "how"
    )
    assert row.ids.tolist() != [1, *apart, 2]
