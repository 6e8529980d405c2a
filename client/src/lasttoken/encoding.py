"""From the caller's arguments to the tensors of requests. Nothing here does input or output."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from lasttoken.errors import InvalidInput
from lasttoken.options import Priority
from lasttoken.vector_form import PLAIN, VectorForm

MAX_TEXTS_PER_REQUEST = 256
"""Rows that an exported model takes in a request: `max_batch_size` of its configuration."""

MAX_PADDED_BYTES = 32 * 1024
"""Rows of one request times its longest text in bytes.

A text has at most one token a byte, so this bounds the tokens of a request well below what a server
lets wait, which it would refuse for good, and the padding that its tokenizer writes.
"""

_SHOWN_CHARACTERS = 80
_LONGEST_TIMEOUT_S = 365 * 24 * 3600.0
"""gRPC counts in nanoseconds of 64 bits: beyond their range a deadline has passed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """What holds for all texts of one call, checked.

    Attributes:
        prompt_name: UTF-8, or None.
        instruction: UTF-8, or None.
        timeout_s: Time for the call, or for each of its requests, in seconds.
        priority: The server's queue.
        form: What is done to the vectors.
    """

    prompt_name: bytes | None
    instruction: bytes | None
    timeout_s: float
    priority: Priority
    form: VectorForm = PLAIN


def check_call(
    *,
    prompt_name: str | None,
    instruction: str | None,
    timeout_s: float,
    priority: Priority,
    form: VectorForm = PLAIN,
) -> EmbedCall:
    """Check the arguments that hold for all texts.

    Raises:
        InvalidInput: An argument of a wrong type or value, or both a prompt name and an
            instruction.
    """
    if prompt_name is not None and instruction is not None:
        raise InvalidInput(
            f"both prompt_name={prompt_name!r} and instruction={instruction!r} are given; "
            "an instruction takes the place of a prompt, so give one of them"
        )
    if priority not in get_args(Priority):
        known = ", ".join(map(repr, get_args(Priority)))
        raise InvalidInput(f"priority is {priority!r}; use one of {known}")
    seconds = check_timeout(timeout_s)
    return EmbedCall(
        prompt_name=None if prompt_name is None else utf8(prompt_name, "prompt_name"),
        instruction=None if instruction is None else utf8(instruction, "instruction"),
        timeout_s=seconds,
        priority=priority,
        form=form,
    )


def check_texts(texts: object) -> tuple[bytes, ...]:
    """Put a string, or a list of them, into UTF-8.

    Raises:
        InvalidInput: Neither, or a text that is not valid Unicode.
    """
    rows = [texts] if isinstance(texts, str) else _check_list(texts)
    return tuple(utf8(text, f"texts[{index}]") for index, text in enumerate(rows))


def check_iterable(texts: object, *, allow_async: bool) -> None:
    """Check what `embed_iter` is to iterate over.

    Raises:
        InvalidInput: A single string, bytes, or a collection without an order or of pairs.
    """
    _refuse_table(texts)
    ordered = isinstance(texts, (Iterable, AsyncIterable) if allow_async else Iterable)
    if not ordered or isinstance(texts, (str, bytes, bytearray, memoryview, Mapping, AbstractSet)):
        raise InvalidInput(
            f"texts is of type {type(texts).__name__!r}; give something that yields strings, such "
            "as a list, a generator or an open file (one string: [text])"
        )


def check_timeout(timeout_s: object) -> float:
    """Check a time in seconds.

    Returns:
        The time; a year where it is longer, which gRPC could not count.

    Raises:
        InvalidInput: Not a number, not finite, or not positive.
    """
    number = isinstance(timeout_s, (int, float, np.floating, np.integer)) and not isinstance(
        timeout_s, bool
    )
    if not (number and math.isfinite(timeout_s) and timeout_s > 0):  # type: ignore[arg-type, operator]
        raise InvalidInput(f"timeout_s is {timeout_s!r}; it must be a positive number of seconds")
    return min(float(timeout_s), _LONGEST_TIMEOUT_S)  # type: ignore[arg-type]


def check_whole_number(name: str, value: object) -> None:
    """Check a number of things, called `name` in the message.

    Raises:
        InvalidInput: Not a whole number, or below 1.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not (whole and value >= 1):  # type: ignore[operator]
        raise InvalidInput(f"{name} is {value!r}; it must be a whole number above 0")


def _check_list(texts: object) -> Iterable[object]:
    _refuse_table(texts)
    sized = hasattr(texts, "__len__") and isinstance(texts, Iterable)
    sized = sized and getattr(texts, "ndim", 1) > 0  # numpy's 0-d arrays only look it
    if not sized or isinstance(texts, (bytes, bytearray, memoryview, Mapping, AbstractSet)):
        hint = "; embed_iter takes whatever yields strings" if isinstance(texts, Iterator) else ""
        raise InvalidInput(
            f"texts is of type {type(texts).__name__!r}; give a string or a list of strings{hint}"
        )
    return texts  # type: ignore[return-value]


def _refuse_table(texts: object) -> None:
    """Tables of pandas and Polars look like lists: of the names of their columns, or of columns."""
    if hasattr(texts, "columns"):
        raise InvalidInput(
            f"texts is a table, of type {type(texts).__name__!r}; give one of its columns"
        )


def utf8(text: object, name: str) -> bytes:
    """Put a text into UTF-8; `name` says in a message what it is.

    Raises:
        InvalidInput: Not a string, or not valid Unicode.
    """
    if not isinstance(text, str):
        shown = repr(text)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS]}..."
        raise InvalidInput(f"{name} is {shown}, of type {type(text).__name__!r}; give a string")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name} cannot be written in UTF-8: character {error.start} is "
            f"{text[error.start]!r}, half of a surrogate pair; replace or drop it"
        ) from error


def split_rows(lengths: Sequence[int], max_rows: int) -> list[npt.NDArray[np.intp]]:
    """Split rows into requests whose rows have similar lengths.

    The server pads the token ids of one request to its longest row, so similar rows go together,
    and rows times the longest length stays below `MAX_PADDED_BYTES` (a longer row goes alone).
    The longest come first, so that the short ones fill the end of a long list.

    Args:
        lengths: Length of each text in bytes.
        max_rows: Most rows of a request.

    Returns:
        For each request the positions of its rows, int `[rows]`; every row is in exactly one.
    """
    if len(lengths) == 1:
        return [np.zeros(1, dtype=np.intp)]
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    requests = []
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        stop = start + max(1, min(max_rows, MAX_PADDED_BYTES // longest))
        requests.append(order[start:stop])
        start = stop
    return requests


def request_inputs(call: EmbedCall, texts: list[bytes]) -> list[Any]:
    """Make the input tensors of one request: TEXT, and PROMPT_NAME or INSTRUCTION when given.

    Args:
        call: The call.
        texts: The request's texts.

    Returns:
        tritonclient `InferInput`s, each BYTES `[n, 1]`.
    """
    inputs = [_bytes_input("TEXT", texts)]
    for name, value in (("PROMPT_NAME", call.prompt_name), ("INSTRUCTION", call.instruction)):
        if value is not None:
            inputs.append(_bytes_input(name, [value] * len(texts)))
    return inputs


def request_parameters(call: EmbedCall) -> dict[str, str] | None:
    """Parameters of every request of a call; the server's default class is not sent."""
    return None if call.priority == "interactive" else {"service_class": call.priority}


def _bytes_input(name: str, values: list[bytes]) -> Any:
    import tritonclient.grpc as triton  # 0.3 s that `import lasttoken` need not take

    tensor = np.empty((len(values), 1), dtype=np.object_)
    tensor[:, 0] = values
    infer_input = triton.InferInput(name, [len(values), 1], "BYTES")
    infer_input.set_data_from_numpy(tensor)
    return infer_input
