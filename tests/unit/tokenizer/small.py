"""Small tokenizers and contracts."""

from __future__ import annotations

import json

from contract import parse_contract
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

TEXT = "the cat sat"


def byte_level_tokenizer(**flags):
    """Byte-level BPE of single bytes, with special tokens <s>, </s> and the plain added <mark>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, **flags) for token in ("<s>", "</s>")]
    )
    tokenizer.add_tokens([AddedToken("<mark>", special=False)])
    # What a published file may bring along, all of it to be ignored:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=20)
    return tokenizer.to_str()


def contract_data(**changes):
    ids = [256, *byte_ids(TEXT), 257]
    return {
        "model": "small",
        "sequence": ["<s>", "$A", "</s>"],
        "special_tokens": {"<s>": 256, "</s>": 257},
        "max_length": 40,
        "prompts": {"query": "Q: {text}", "wrapped": "[{text}] is"},
        "default_prompt_name": None,
        "instruction_template": "Instruct: {instruction}\nQuery: {text}",
        "golden": [{"text": TEXT, "prompt_name": None, "ids": ids}],
        **changes,
    }


def make_contract(**changes):
    return parse_contract(json.loads(json.dumps(contract_data(**changes))))


def byte_ids(text):
    """Ids of the byte-level tokenizer, worked out without it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [alphabet.index(letters[byte]) for byte in text.encode()]
