"""Prompts: which template a text is put into. Prompt and text are one string from here on."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from contract import TEMPLATE_PLACE, TokenizerContract
from tokenizer_errors import InvalidText

_NAMES_IN_A_MESSAGE = 8
_CHARACTERS_IN_A_MESSAGE = 100


@dataclass(frozen=True, slots=True)
class PromptedText:
    """A text in its prompt.

    Attributes:
        text: The whole string to tokenize.
        suffix: What of it stands behind the caller's text.
    """

    text: str
    suffix: str = ""


def apply_prompt(
    contract: TokenizerContract, text: str, *, prompt_name: str | None, instruction: str | None
) -> PromptedText:
    """Put a text into the prompt that the caller chose, or into the model's default.

    Args:
        contract: Knows the prompts.
        text: The caller's text.
        prompt_name: Name of a prompt; None or empty for none.
        instruction: A task instruction; None or empty for none.

    Raises:
        InvalidText: The prompt is unknown, both are given, or the model takes no instruction.
    """
    if prompt_name and instruction:
        raise InvalidText(
            f"both PROMPT_NAME {_shown(prompt_name)} and INSTRUCTION are given; send one of them",
            reason="prompt",
        )
    if instruction:
        if contract.instruction_template is None:
            raise InvalidText(
                f"{contract.model} takes no INSTRUCTION; use one of its prompts "
                f"{_names_near('', contract)}",
                reason="prompt",
            )
        # The template is split before anything is put in: an instruction may hold "{text}" itself.
        before, _, suffix = contract.instruction_template.partition(TEMPLATE_PLACE)
        before = before.replace("{instruction}", instruction)
        return PromptedText(f"{before}{text}{suffix}", suffix)
    name = prompt_name or contract.default_prompt_name
    if name is None:
        return PromptedText(text)
    if name not in contract.prompts:
        raise InvalidText(
            f"PROMPT_NAME is {_shown(name)}; {contract.model} has {_names_near(name, contract)}",
            reason="prompt",
        )
    before, _, suffix = contract.prompts[name].partition(TEMPLATE_PLACE)
    return PromptedText(f"{before}{text}{suffix}", suffix)


def _shown(name: str) -> str:
    """A caller's name for a message; of one that is no name but a whole text, the beginning."""
    short = name[:_CHARACTERS_IN_A_MESSAGE]
    return repr(short) if short == name else f"{short!r} and {len(name) - len(short)} more"


def _names_near(name: str, contract: TokenizerContract) -> str:
    """The prompts' names for a message: all of a few, of many the nearest."""
    known = sorted(contract.prompts)
    if len(known) <= _NAMES_IN_A_MESSAGE:
        return repr(known)
    near = get_close_matches(name, known, n=_NAMES_IN_A_MESSAGE, cutoff=0.5)
    shown = near or known[:_NAMES_IN_A_MESSAGE]
    return f"{shown!r} and {len(known) - len(shown)} more, which its card lists"
