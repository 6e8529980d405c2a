"""The tokenizer contract: the tokens a model was trained with, whatever its tokenizer file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tokenizer_errors import InvalidContract

TEXT_PLACE = "$A"
"""Where the text stands in ``sequence``."""

TEMPLATE_PLACE = "{text}"
"""Where the text stands in a prompt template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenTokens:
    """A text and the ids that it must give.

    Attributes:
        text: The text.
        ids: All ids, special tokens included.
        prompt_name: Prompt that it is given with, or None.
    """

    text: str
    ids: tuple[int, ...]
    prompt_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerContract:
    """What contract.json holds.

    Attributes:
        model: Catalogue name.
        sequence: Special tokens around ``$A``, in order.
        special_tokens: Their ids.
        max_length: Most tokens of a row, special tokens included.
        prompts: Templates by name; each holds ``{text}`` once.
        default_prompt_name: Prompt of a request that names neither prompt nor instruction; None
            for the bare text.
        instruction_template: Holds ``{instruction}`` and behind it ``{text}``; None for a model
            that takes none.
        golden: Checked when the tokenizer is loaded.

    Raises:
        InvalidContract: Parts of it contradict each other.
    """

    model: str
    sequence: tuple[str, ...]
    special_tokens: Mapping[str, int]
    max_length: int
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    instruction_template: str | None
    golden: tuple[GoldenTokens, ...]

    def __post_init__(self) -> None:
        special = [token for token in self.sequence if token != TEXT_PLACE]
        if len(special) != len(self.sequence) - 1:
            raise InvalidContract(
                f"sequence is {self.sequence!r}; it must hold {TEXT_PLACE!r} once"
            )
        if set(special) != set(self.special_tokens):
            raise InvalidContract(
                f"special_tokens gives ids of {sorted(self.special_tokens)!r}, the sequence is "
                f"{self.sequence!r}; give the id of each of its special tokens and of no other"
            )
        if self.max_length <= len(special):
            raise InvalidContract(f"max_length is {self.max_length!r}; it leaves no room for text")
        templates = dict(self.prompts)
        if self.instruction_template is not None:
            templates["instruction_template"] = self.instruction_template
            before_text = self.instruction_template.partition(TEMPLATE_PLACE)[0]
            if "{instruction}" not in before_text:
                raise InvalidContract(
                    f"instruction_template is {self.instruction_template!r}; it must hold "
                    "{instruction} and behind it {text}"
                )
        for name, template in templates.items():
            if template.count(TEMPLATE_PLACE) != 1:
                raise InvalidContract(
                    f"prompt {name!r} is {template!r}; it must hold {{text}} once"
                )
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise InvalidContract(
                f"default_prompt_name is {self.default_prompt_name!r}; the prompts are "
                f"{sorted(self.prompts)!r}"
            )
        if not self.golden:
            raise InvalidContract("golden is empty; give at least one text with its ids")

    @property
    def closing_ids(self) -> tuple[int, ...]:
        """Ids of the special tokens behind the text."""
        behind = self.sequence[self.sequence.index(TEXT_PLACE) + 1 :]
        return tuple(self.special_tokens[token] for token in behind)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_golden(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_text(value.get("text"))
        and isinstance(value.get("ids"), list)
        and all(map(_is_id, value["ids"]))
        and _is_text_or_none(value.get("prompt_name"))
    )


def _lists(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _maps(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, dict) and all(map(_is_text, value)) and all(map(fits, value.values()))
    )


_FITS: Mapping[str, Callable[[object], bool]] = {
    "model": _is_text,
    "sequence": _lists(_is_text),
    "special_tokens": _maps(_is_id),
    "max_length": _is_id,
    "prompts": _maps(_is_text),
    "default_prompt_name": _is_text_or_none,
    "instruction_template": _is_text_or_none,
}
"""Whether a value of contract.json is of the right type."""


def parse_contract(data: Mapping[str, Any]) -> TokenizerContract:
    """Build a contract from JSON values.

    Raises:
        InvalidContract: A key is unknown or missing, a value is of the wrong type, or the contract
            contradicts itself.
    """
    known = {field.name for field in fields(TokenizerContract)}
    if data.keys() != known:
        raise InvalidContract(
            f"contract has unknown keys {sorted(data.keys() - known)!r} and lacks "
            f"{sorted(known - data.keys())!r}"
        )
    for name, fits in _FITS.items():
        if not fits(data[name]):
            raise InvalidContract(
                f"contract holds {data[name]!r} as {name}; export the model again"
            )
    if not _lists(_is_golden)(data["golden"]):
        raise InvalidContract(f"golden holds an item that is not text and ids: {data['golden']!r}")
    try:
        golden = tuple(GoldenTokens(**{**item, "ids": tuple(item["ids"])})
                       for item in data["golden"])  # fmt: skip
    except TypeError as error:
        raise InvalidContract(f"golden holds an item that is not text and ids: {error}") from None
    return TokenizerContract(**{**data, "sequence": tuple(data["sequence"]), "golden": golden})


def load_contract(path: Path) -> TokenizerContract:
    """Read contract.json.

    Raises:
        InvalidContract: It is not JSON, or not a contract.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidContract(f"{path.name} is not JSON: {error}; export the model again") from None
    if not isinstance(data, dict):
        raise InvalidContract(f"{path.name} is not a JSON object; export the model again")
    return parse_contract(data)
