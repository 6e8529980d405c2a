"""Which prompt a text is put into: by its name, by what the text is for, or by an instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lasttoken.encode_call import PROMPTS_OF_DOCUMENTS, PROMPTS_OF_QUERIES
from lasttoken.gateway.refusals import invalid

INPUT_TYPES = {
    "query": PROMPTS_OF_QUERIES,
    "search_query": ("search_query", *PROMPTS_OF_QUERIES),
    "passage": PROMPTS_OF_DOCUMENTS,
    "document": PROMPTS_OF_DOCUMENTS,
    "search_document": ("search_document", *PROMPTS_OF_DOCUMENTS),
    "classification": ("classification",),
    "clustering": ("clustering",),
}
"""What a text is for, and the names that models give the prompt for it, the best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChoice:
    """What a request says about prompts; at most one of the three is given.

    Attributes:
        prompt_name: Name of one of the model's prompts.
        input_type: What the texts are for.
        instruction: What the texts are searched for.
    """

    prompt_name: str | None = None
    input_type: str | None = None
    instruction: str | None = None

    def __post_init__(self) -> None:
        given = {
            name: value
            for name in ("prompt_name", "input_type", "instruction")
            if (value := getattr(self, name)) is not None
        }
        if len(given) > 1:
            raise invalid(
                f"{' and '.join(given)} are given together; each says which prompt to use, so send "
                "one of them",
                param=list(given)[-1],
            )
        if self.input_type is not None and self.input_type not in INPUT_TYPES:
            raise invalid(
                f"input_type is {self.input_type!r}; use one of {sorted(INPUT_TYPES)}",
                param="input_type",
            )

    @property
    def given(self) -> bool:
        """Whether the request says anything."""
        return (self.prompt_name, self.input_type, self.instruction) != (None, None, None)

    def name_among(self, prompts: Sequence[str]) -> str | None:
        """The name of the prompt to ask the server for; None for the model's default.

        A model without a prompt for what the text is for treats all texts alike, so an input type
        that it does not know means its default.

        Args:
            prompts: Names of the model's prompts.
        """
        if self.input_type is not None:
            return next((name for name in INPUT_TYPES[self.input_type] if name in prompts), None)
        return self.prompt_name
