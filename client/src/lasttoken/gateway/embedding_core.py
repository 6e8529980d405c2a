"""What all dialects come down to: inputs, a model, a prompt, a size; vectors come back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from lasttoken.errors import DeadlineExceeded
from lasttoken.gateway.exchange import Exchange
from lasttoken.gateway.prompt_choice import PromptChoice
from lasttoken.gateway.refusals import TEXT_TOO_LONG, Refusal, invalid
from lasttoken.gateway.served_models import ModelDirectory, ServedModel
from lasttoken.gateway.token_ids import completed_row
from lasttoken.options import Priority
from lasttoken.vector_form import PLAIN, VectorForm, untrained_size


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """A request without its dialect.

    Attributes:
        inputs: Texts, or rows of token ids; one kind.
        model: As the caller named it; None for the default.
        prompt: Which prompt the texts are put into.
        dimensions: Elements of a vector; None for the model's own.
        refuse_long: Whether a text beyond the model's maximum is refused, not cut.
        priority: The server's queue.
    """

    inputs: Sequence[str] | Sequence[Sequence[int]]
    model: str | None
    prompt: PromptChoice = field(default_factory=PromptChoice)
    dimensions: int | None = None
    refuse_long: bool = False
    priority: Priority = "interactive"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """The answer to a job.

    Attributes:
        model: What served it.
        vectors: `[n, dimensions]` float32, L2-normalised.
        token_counts: `[n]` int32, prompt and special tokens included.
        truncated: `[n]` bool, whether the text was cut.
    """

    model: ServedModel
    vectors: npt.NDArray[np.float32]
    token_counts: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return int(self.token_counts.sum(dtype=np.int64))


async def embed(
    job: EmbedJob, directory: ModelDirectory, exchange: Exchange, *, timeout_s: float
) -> Embedded:
    """Do a job.

    Args:
        job: The job; at least one input.
        directory: Knows the models.
        exchange: Told the model and the time spent with the server.
        timeout_s: Time for all of it, in seconds.

    Raises:
        Refusal: The job is not acceptable.
        LasttokenError: The server could not do it.
    """
    deadline = time.monotonic() + timeout_s
    model, suffix = await directory.find(job.model)
    exchange.model = model.name
    if suffix.given and job.prompt.given:
        raise invalid(
            "the model's suffix and a field both say which prompt to use; send one", param="model"
        )
    prompt = job.prompt if job.prompt.given else suffix
    form = _form(job.dimensions, model)
    started_s = time.perf_counter()
    try:
        rows, truncated = await _rows(job, model, prompt, deadline)
        if job.refuse_long and truncated.any():
            raise Refusal(
                TEXT_TOO_LONG,
                f"input[{int(np.argmax(truncated))}] is longer than the {model.card['max_length']} "
                f"tokens of {model.name}, and the request forbids to cut it",
                param="input",
            )
        vectors = await model.encoder.encode_ids(
            rows, timeout_s=_left(deadline), priority=job.priority
        )
    finally:
        exchange.upstream_s = time.perf_counter() - started_s
    return Embedded(
        model=model,
        vectors=form.apply(vectors),
        token_counts=np.array([len(row) for row in rows], np.int32),
        truncated=truncated,
    )


def _form(dimensions: int | None, model: ServedModel) -> VectorForm:
    """The size asked for, which must be one that the model was trained for."""
    if dimensions is None:
        return PLAIN
    if (words := untrained_size(dimensions, model.info)) is not None:
        raise invalid(words, param="dimensions")
    return VectorForm(dimensions=dimensions)


async def _rows(
    job: EmbedJob, model: ServedModel, prompt: PromptChoice, deadline: float
) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.bool_]]:
    """The tokens of each input, and whether it was cut."""
    texts = [item for item in job.inputs if isinstance(item, str)]
    if len(texts) == len(job.inputs):
        tokenized = await model.tokenizer.tokenize(
            texts,
            prompt_name=prompt.name_among(model.prompts),
            instruction=prompt.instruction,
            timeout_s=_left(deadline),
            priority=job.priority,
        )
        return tokenized.rows, tokenized.truncated
    if prompt.given:
        raise invalid(
            "token ids take no prompt: it is text in front of a text. Put its tokens into the ids, "
            "or send texts",
            param="input",
        )
    contract = model.token_contract()
    rows = [
        completed_row(cast("Sequence[int]", ids), contract, index=index, model=model.name)
        for index, ids in enumerate(job.inputs)
    ]
    return rows, np.zeros(len(rows), np.bool_)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("the time for this request is over; send fewer texts")
    return left
