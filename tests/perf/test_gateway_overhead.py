"""The arithmetic of the overhead benchmark, never its speed."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from lasttoken_perf.overhead_load import measure


def run(embed, **changes):
    load = {"dimensions": 4, "requests": 10, "texts": 3, "in_flight": 4, **changes}
    return asyncio.run(measure(embed, **load))


def test_requests_are_shared_out_and_the_warm_up_is_not_counted():
    calls = []

    async def embed(texts):
        calls.append(len(texts))
        return np.eye(len(texts), 4, dtype=np.float32)

    told = run(embed)
    assert told["texts"] == 8 * 3  # whole rounds of four
    assert calls == [3] * (4 + 8)
    assert told["seconds"] > 0


@pytest.mark.parametrize("wrong", [np.eye(3, 5), np.eye(2, 4), np.full((3, 4), 0.1)])
def test_a_wrong_vector_ends_the_measurement(wrong):
    async def embed(texts):
        return wrong.astype(np.float32)

    with pytest.raises(ValueError, match="vectors of shape"):
        run(embed)
