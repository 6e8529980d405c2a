"""The arithmetic of the overhead benchmark, never its speed."""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken_perf import gateway_overhead
from lasttoken_perf.commands.gateway_overhead import COMMAND, line
from lasttoken_perf.errors import MissingLibrary, PeerFailed
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


POINT = {
    "dimensions": 384,
    "concurrency": 64,
    "texts_per_request": 1,
    "subject": "raw gRPC",
    "texts_per_s": {"median": 3268.4},
    "cpu_s_per_1000_texts": {"median": 0.204},
}


def test_what_was_not_measured_is_a_dash():
    assert line(POINT).endswith("gateway      - CPU s / 1,000")
    through = POINT | {"gateway_cpu_s_per_1000_texts": {"median": 0.71}}
    assert line(through).endswith("gateway  0.710 CPU s / 1,000")


@pytest.fixture
def a_fake_round(monkeypatch):
    """A server that is no server, and two contestants of whom the second fails."""

    @contextmanager
    def nothing(*_arguments, **_options):
        yield SimpleNamespace(
            grpc_url="x", url="http://x", model="m", dimensions=4, process=SimpleNamespace(pid=1)
        )

    codes = iter((0, 1))

    def ended(*_arguments, **_options):
        told = json.dumps({"seconds": 2.0, "client_cpu_s": 0.5, "texts": 100.0})
        return SimpleNamespace(returncode=next(codes), stdout=told)

    monkeypatch.setattr(gateway_overhead, "instant_server", nothing)
    monkeypatch.setattr(gateway_overhead, "gateway_process", nothing)
    monkeypatch.setattr(gateway_overhead.subprocess, "run", ended)


def test_a_contestant_that_fails_is_a_typed_error_and_the_rows_before_it_are_kept(
    a_fake_round, tmp_path
):
    options = argparse.Namespace(
        dimensions=[4], repeats=1, share=0.1, output=tmp_path / "result.json"
    )
    with pytest.raises(PeerFailed, match=r"HTTP base64: .* exit code 1"):
        COMMAND.run(options)
    written = json.loads(options.output.read_text())
    assert written["interrupted"] == "PeerFailed after 1 rows"
    (row,) = written["rows"]
    assert row["texts_per_s"] == 50
    assert row["cpu_s_per_1000_texts"] == 5


def test_a_library_that_is_missing_is_said_before_the_work(monkeypatch):
    monkeypatch.setattr(
        gateway_overhead.importlib.util, "find_spec", lambda name: None if name == "openai" else 1
    )
    with pytest.raises(MissingLibrary, match="pip install openai"):
        gateway_overhead.check_libraries()
