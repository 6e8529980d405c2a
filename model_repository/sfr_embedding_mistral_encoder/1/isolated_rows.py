"""Each row of a batch gets its vector, or an error that is its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
from computed_work import ComputedWork
from encode_errors import EncodeError, EngineFailed
from engine import Encode, Engine
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Result = NDArray[np.float32] | EncodeError
"""``[D]``, or why there is none."""


def encode_isolating(
    engine: Engine,
    encode: Encode,
    row_tokens: list[NDArray[np.int32]],
    first_try: Callable[[], NDArray[np.float32]],
) -> tuple[list[Result], ComputedWork]:
    """Return each row's vector, or the error that is this row's own, and what it took.

    Where a batch fails its rows are tried alone: a vector does not depend on its batch, so only the
    rows that the engine cannot compute are answered with an error. Nor are they spoiled by a row
    that overflows and shares tokens with them: these take their attention from one of the rows, and
    what is masked there still multiplies by zero. Rows without a finite vector are tried alone too.

    Args:
        engine: Says what it computes for a batch.
        encode: Computes rows that are tried alone.
        row_tokens: ``[tokens]`` int32 of each row, at least one row.
        first_try: Computes the whole batch, ``[rows, D]``; may raise whatever a runtime raises.

    Returns:
        The rows' results in order, and the work of all tries.
    """
    lengths = np.array([len(tokens) for tokens in row_tokens], np.int32)
    work = ComputedWork(tokens=0, attention_cells=0)
    try:
        work = engine.computed_work(np.concatenate(row_tokens), lengths)
        vectors = first_try()
        if vectors.ndim != 2 or len(vectors) != len(lengths):
            raise ValueError(f"engine returned {vectors.shape} for {len(lengths)} rows")
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises is answered
        if len(lengths) > 1:
            _log.warning("batch of %d rows failed, trying each alone: %s", len(lengths), error)
            results, more = _each_alone(engine, encode, row_tokens)
            return results, work + more
        _log.exception("row of %d tokens failed", lengths[0])
        message = f"the engine failed on a text of {lengths[0]} tokens: {error}"
        return [EngineFailed(message)], work
    finite = [bool(np.isfinite(vector).all()) for vector in vectors]
    if work.shared_tokens and not all(finite):
        spoiled = [tokens for tokens, good in zip(row_tokens, finite, strict=True) if not good]
        _log.warning("%d of %d rows not finite, trying each alone", len(spoiled), len(finite))
        again, more = _each_alone(engine, encode, spoiled)
        left = iter(again)
        good_or_again = zip(vectors, finite, strict=True)
        return [vector if good else next(left) for vector, good in good_or_again], work + more
    return [
        vector
        if good
        else EngineFailed(
            f"the engine returned NaN or infinity for a text of {length} tokens; a model that "
            "overflows in half precision needs bf16 or fp32"
        )
        for vector, good, length in zip(vectors, finite, lengths, strict=True)
    ], work


def _each_alone(
    engine: Engine, encode: Encode, row_tokens: list[NDArray[np.int32]]
) -> tuple[list[Result], ComputedWork]:
    results: list[Result] = []
    work = ComputedWork(tokens=0, attention_cells=0)
    for tokens in row_tokens:
        alone = partial(encode, tokens, np.array([len(tokens)], np.int32))
        [result], more = encode_isolating(engine, encode, [tokens], alone)
        results.append(result)
        work += more
    return results, work
