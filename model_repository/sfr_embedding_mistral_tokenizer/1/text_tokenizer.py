"""Tokenizes texts by a model's contract, whatever its tokenizer file says.

Of tokenizer.json only the vocabulary, the normaliser, the pre-tokenizer and the model are used. Its
post-processor, truncation and padding are replaced: many published files add no EOS, and with
last-token pooling the EOS is the vector.

Special tokens typed by a user stay text: ``</s>`` in a text is encoded as its characters, as
SentencePiece does, so nobody can end a text early or forge a boundary. Added tokens that the file
does not mark as special (markup that a model was trained to read) are matched as the file says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contract import TokenizerContract, load_contract
from numpy.typing import NDArray
from prompts import PromptedText, apply_prompt
from tokenizer_errors import InvalidContract
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

_CHARACTERS_AT_ONCE = 1 << 20
"""The library holds some 70 bytes a token until all texts of a call are done, also for what is cut
off: for 256 texts of the longest size that would be the machine's memory."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedText:
    """Tokens of one text.

    Attributes:
        ids: ``[length]`` int32, special tokens included.
        truncated: Whether the text was cut to the contract's maximum.
    """

    ids: NDArray[np.int32]
    truncated: bool


class TextTokenizer:
    """A tokenizer that has been proved to follow its contract.

    Args:
        contract: The contract.
        tokenizer_json: Text of tokenizer.json.

    Raises:
        InvalidContract: The file is no tokenizer, a special token has another id in it, or a golden
            text gives other ids.
    """

    def __init__(self, contract: TokenizerContract, tokenizer_json: str) -> None:
        self.contract = contract
        try:
            tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise InvalidContract(f"tokenizer.json cannot be read: {error}") from None
        for token, expected in contract.special_tokens.items():
            if (found := tokenizer.token_to_id(token)) != expected:
                raise InvalidContract(
                    f"{contract.model}: {token!r} has id {found!r} in tokenizer.json, the contract "
                    f"says {expected!r}; this is another model's tokenizer"
                )
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.post_processor = TemplateProcessing(
            single=list(contract.sequence), special_tokens=list(contract.special_tokens.items())
        )
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._suffix_ids: dict[str, list[int]] = {"": []}
        self._check_golden()

    def encode(self, texts: Sequence[PromptedText]) -> list[TokenizedText]:
        """Tokenize texts, in parallel where the environment allows it.

        A text beyond the maximum loses its end; the tokens of what its prompt puts behind it and
        the closing special tokens stay, since they are what the vector is taken from.
        """
        return [row for some in _in_portions(texts) for row in self._encode_at_once(some)]

    def _encode_at_once(self, texts: Sequence[PromptedText]) -> list[TokenizedText]:
        encodings = self._tokenizer.encode_batch_fast([text.text for text in texts])
        return [
            self._cut(encoding.ids, text.suffix)
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def _cut(self, ids: list[int], suffix: str) -> TokenizedText:
        limit = self.contract.max_length
        if len(ids) <= limit:
            return TokenizedText(np.array(ids, np.int32), truncated=False)
        tail = [*self._ids_of_suffix(suffix), *self.contract.closing_ids]
        return TokenizedText(np.array(ids[: limit - len(tail)] + tail, np.int32), truncated=True)

    def _ids_of_suffix(self, suffix: str) -> list[int]:
        if suffix not in self._suffix_ids:  # as many as there are prompts
            encoding = self._tokenizer.encode(suffix, add_special_tokens=False)
            # At most half of the row: some of the text must be left.
            self._suffix_ids[suffix] = encoding.ids[-(self.contract.max_length // 2) :]
        return self._suffix_ids[suffix]

    def _check_golden(self) -> None:
        for golden in self.contract.golden:
            prompted = apply_prompt(
                self.contract, golden.text, prompt_name=golden.prompt_name, instruction=None
            )
            # Not cut: a maximum length below a golden text's says nothing about the tokenizer.
            if (found := tuple(self._tokenizer.encode(prompted.text).ids)) != golden.ids:
                raise InvalidContract(
                    f"{self.contract.model}: {golden.text!r} with prompt {golden.prompt_name!r} "
                    f"gives the ids {found}, the contract says {golden.ids}; the tokenizer file is "
                    "not this model's, or has been changed"
                )


def _in_portions(texts: Sequence[PromptedText]) -> Iterator[Sequence[PromptedText]]:
    """Split texts, in their order, into runs of `_CHARACTERS_AT_ONCE`; a longer text goes alone."""
    start = characters = 0
    for position, text in enumerate(texts):
        characters += len(text.text)
        if characters > _CHARACTERS_AT_ONCE and position > start:
            yield texts[start:position]
            start, characters = position, len(text.text)
    if start < len(texts):
        yield texts[start:]


def load_text_tokenizer(folder: Path) -> TextTokenizer:
    """Load tokenizer.json and contract.json of a folder.

    Raises:
        InvalidContract: One of them is not acceptable.
    """
    tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
    return TextTokenizer(load_contract(folder / "contract.json"), tokenizer_json)
