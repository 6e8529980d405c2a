"""The arguments of `encode`, which are those of `SentenceTransformer.encode`, and its answers.

What a server cannot do is refused with a word on what to do instead; nothing is dropped silently.

Source: https://sbert.net/docs/package_reference/sentence_transformer/SentenceTransformer.html
(version 6.2).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lasttoken.embeddings import ModelInfo
from lasttoken.encoding import check_texts, check_whole_number, utf8
from lasttoken.errors import InvalidInput, LasttokenError
from lasttoken.vector_form import VectorForm, check_form

Container = Literal["numpy", "tensor", "list of tensors"]

PROMPTS_OF_QUERIES = ("query", "search_query")
PROMPTS_OF_DOCUMENTS = ("document", "passage", "corpus", "search_document")
_PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodeCall:
    """One checked call of `encode`.

    Attributes:
        texts: The texts in UTF-8, with the prompt in front where one was given in full.
        single: Whether the caller gave one string and not a list.
        prompt_name: One of the model's prompts; empty for none; None for its default.
        form: What is done to the vectors, when all are there.
        batch_size: Most texts of a request.
        container: What the answer is made of.
    """

    texts: tuple[bytes, ...]
    single: bool
    prompt_name: str | None
    form: VectorForm
    batch_size: int
    container: Container


def check_encode(
    inputs: str | Sequence[str] | None,
    *,
    prompt_name: str | None,
    prompt: str | None,
    batch_size: int,
    output_value: str | None,
    precision: str,
    convert_to_numpy: bool,
    convert_to_tensor: bool,
    device: object,
    normalize_embeddings: bool,
    truncate_dim: int | None,
    force_dimensions: bool,
    pool: object,
    chunk_size: object,
    others: Mapping[str, Any],
) -> EncodeCall:
    """Check the arguments of `encode`.

    Raises:
        InvalidInput: An argument of a wrong value, or one that a served model cannot honour.
        LasttokenError: Tensors are asked for and torch is not installed.
    """
    others = dict(others)
    if inputs is None:
        inputs = others.pop("sentences", None)  # the name of the first argument before version 5
    if others:
        raise InvalidInput(f"encode has no argument {', '.join(map(repr, others))}")
    if output_value != "sentence_embedding":
        raise InvalidInput(
            f"output_value is {output_value!r}; a server sends whole texts' vectors only, "
            "'sentence_embedding'"
        )
    for name, value in (("device", device), ("pool", pool), ("chunk_size", chunk_size)):
        if value is not None:
            raise InvalidInput(
                f"{name} is {value!r}; the server decides where and how it computes: leave it out"
            )
    if prompt is not None and prompt_name is not None:
        raise InvalidInput(
            f"both prompt={prompt!r} and prompt_name={prompt_name!r} are given; give one of them"
        )
    check_whole_number("batch_size", batch_size)
    if precision not in _PRECISIONS:
        raise InvalidInput(
            f"precision is {precision!r}; use one of {', '.join(map(repr, _PRECISIONS))}"
        )
    container: Container = "numpy"
    if convert_to_tensor:
        container = "tensor"
    elif not convert_to_numpy:
        container = "list of tensors"
    if container != "numpy":
        _torch()
    texts = check_texts(inputs)
    if prompt is not None:
        prefix = utf8(prompt, "prompt")
        texts = tuple(prefix + text for text in texts)
        prompt_name = ""
    return EncodeCall(
        texts=texts,
        single=isinstance(inputs, str),
        prompt_name=prompt_name,
        form=check_form(
            dimensions=truncate_dim,
            force_dimensions=force_dimensions,
            output_dtype=precision,  # type: ignore[arg-type]
            ranges=None,
            normalize=normalize_embeddings,
        ),
        batch_size=batch_size,
        container=container,
    )


def task_prompt_name(info: ModelInfo, candidates: Sequence[str]) -> str:
    """The prompt of queries or of documents.

    Args:
        info: The model, whose card names its prompts.
        candidates: Names in order of preference.

    Returns:
        The first candidate that the model has, or "" for no prompt.

    Raises:
        InvalidInput: The model has no card, so that its prompts are not known.
    """
    if info.card is None:
        raise InvalidInput(
            f"{info.name} has no card that names its prompts; use encode with prompt_name, or "
            "export the model again"
        )
    prompts = info.card.get("prompts", ())
    return next((name for name in candidates if name in prompts), "")


def encoded(vectors: npt.NDArray[np.float32], call: EncodeCall) -> Any:
    """Put the server's vectors `[n, D]` into the form and container that were asked for.

    Returns:
        As `SentenceTransformer.encode`: an array or tensor `[n, D]`, or a list of tensors; for a
        single string one row of it. An empty list gives `[0, D]`, where sentence-transformers gives
        `[0]`.
    """
    answer: Any = call.form.apply(vectors)
    if call.container != "numpy":
        answer = _torch().from_numpy(np.ascontiguousarray(answer))
    if call.container == "list of tensors":
        answer = list(answer)
    return answer[0] if call.single else answer


def _torch() -> Any:
    try:
        return importlib.import_module("torch")  # only ever loaded for who asks for its tensors
    except ModuleNotFoundError as error:
        raise LasttokenError(
            "tensors are asked for and torch is not installed: install it, or leave "
            "convert_to_tensor and convert_to_numpy at their defaults for numpy arrays"
        ) from error
