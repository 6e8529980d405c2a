"""The long soak: its load, its arithmetic, what it notices, and a short real one."""

import asyncio
import itertools
import json
import os
import signal
import threading
from collections import Counter

import numpy as np
import psutil
import pytest

from lasttoken import ServerOverloaded
from lasttoken_perf import cli
from lasttoken_perf.errors import InvalidSoak, WrongAnswer
from lasttoken_perf.interruption import Interrupted, signals_unwind
from lasttoken_perf.results import read_result
from lasttoken_perf.server_processes import resident_bytes, server_processes
from lasttoken_perf.steady.mix import KINDS, WAYS, Request, endless_requests, poisson_times_s
from lasttoken_perf.steady.outcome import (
    RIGHT,
    WRONG,
    Outcome,
    errors_of,
    latency_rows,
    memory_rows,
)
from lasttoken_perf.steady.run import SteadyOptions, capacity, run_steady
from lasttoken_perf.steady.traffic import Traffic

QUERY, PASSAGE, DOCUMENT = KINDS
VECTOR = np.array([0.6, 0.8], np.float32)


def outcome(due_s, latency_s, kind=QUERY, way="gRPC", result=RIGHT):
    return Outcome(
        request=Request(kind=kind, way=way, text="a"), due_s=due_s, late_s=0.0,
        latency_s=latency_s, result=result,
    )  # fmt: skip


def test_a_deck_holds_every_kind_by_every_way_in_its_share():
    texts = {kind.distribution: [f"{kind.distribution} {n}" for n in range(3)] for kind in KINDS}
    size = 2 * sum(kind.share for kind in KINDS)
    requests = list(itertools.islice(endless_requests(texts, seed=1), 3 * size))
    for deck in (requests[:size], requests[size : 2 * size], requests[2 * size :]):
        counts = Counter((request.kind, request.way) for request in deck)
        assert counts == {(kind, way): kind.share for kind in KINDS for way in WAYS}
    pairs = zip(requests[::2], requests[1::2], strict=True)
    assert all({first.way, second.way} == set(WAYS) for first, second in pairs)
    assert all(request.text.startswith(request.kind.distribution) for request in requests)
    assert requests == list(itertools.islice(endless_requests(texts, seed=1), 3 * size))
    assert {request.text for request in requests if request.kind is QUERY} == set(texts["queries"])


def test_arrivals_are_those_of_a_poisson_process():
    times = poisson_times_s(50.0, 400.0, seed=3)
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 400
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of exponential gaps


def test_the_capacity_counts_the_tail_of_slow_requests():
    outcomes = [outcome(0.0, 1.0), outcome(1.0, 2.0), outcome(3.0, 7.0, kind=DOCUMENT)]
    assert capacity(outcomes) == pytest.approx(3 / 10)
    with pytest.raises(WrongAnswer, match="ServerError"):
        capacity([*outcomes, outcome(5.0, 1.0, result="ServerError")])
    with pytest.raises(WrongAnswer, match="no answer"):
        capacity([])


def test_drift_is_the_last_third_against_the_first():
    outcomes = [outcome(second, 0.1 if second < 30 else 0.2) for second in range(90)]
    outcomes += [outcome(second, 1.0, kind=DOCUMENT, way="gateway") for second in (1, 50, 89)]
    outcomes.append(outcome(80, 30.0, result="DeadlineExceeded"))
    rows = {(row["kind"], row["way"]): row for row in latency_rows(outcomes, 90.0)}
    assert len(rows) == len(KINDS) * len(WAYS) + 1
    queries = rows["queries", "gRPC"]
    assert (queries["requests"], queries["priority"]) == (90, "interactive")
    assert queries["first_p99_ms"] == pytest.approx(100)
    assert queries["last_p99_ms"] == pytest.approx(200)
    assert queries["p99_drift"] == pytest.approx(1.0)
    assert rows["documents", "gateway"]["p99_drift"] == pytest.approx(0.0)
    assert rows["passages", "gRPC"] == {
        "kind": "passages", "way": "gRPC", "priority": "interactive", "requests": 0,
    }  # fmt: skip
    everything = rows["all", "both"]
    assert everything["requests"] == 90  # bulk is not interactive
    assert everything["p99_ms"] == pytest.approx(200)
    assert errors_of(outcomes) == {"DeadlineExceeded": 1}


def test_memory_drift_is_of_medians_and_the_slope_of_the_settled_part():
    leak = [(float(t), int(1e8 + 1000 * t)) for t in range(900)]
    filled = [(float(t), int(1e8) if t < 300 else int(1.5e8)) for t in range(900)]
    leaking, filling = memory_rows({"leaking": leak, "filling": filled, "ended": []})
    assert leaking["mb_per_hour"] == pytest.approx(3.6, rel=1e-3)
    assert leaking["drift"] == pytest.approx(600 * 1000 / 1e8, rel=0.01)
    assert (filling["first_third_mb"], filling["last_third_mb"]) == (100.0, 150.0)
    assert (filling["drift"], filling["peak_mb"]) == (0.5, 150.0)
    assert filling["mb_per_hour"] == pytest.approx(0, abs=1e-6)
    (once,) = memory_rows({"short": [(0.0, 5_000_000)]})
    assert (once["drift"], once["mb_per_hour"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (VECTOR, RIGHT),
        (VECTOR[::-1], WRONG),
        (np.nextafter(VECTOR, 1, dtype=np.float32), WRONG),
        (ServerOverloaded("full"), "ServerOverloaded"),
        (KeyError("a bug"), "KeyError"),
    ],
)
def test_every_answer_is_compared_and_every_error_counted(answer, result):
    async def ask(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    traffic = Traffic("unused", "unused", "model", {"a": VECTOR})
    traffic._ask = {"gRPC": ask}
    asyncio.run(traffic.once(Request(kind=QUERY, way="gRPC", text="a")))
    assert [o.result for o in traffic.outcomes] == [result]


def test_an_open_loop_sends_on_time_whatever_is_in_flight_and_counts_from_when_it_was_due():
    in_flight, most, all_there = 0, 0, asyncio.Event()

    async def slow(request):
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        if most == 4:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), 30)
        await asyncio.sleep(0.3)
        in_flight -= 1
        return VECTOR

    traffic = Traffic("unused", "unused", "model", {"a": VECTOR})
    traffic._ask = {"gRPC": slow}
    request = Request(kind=QUERY, way="gRPC", text="a")
    asyncio.run(traffic.open(itertools.repeat(request), [0.0, 0.01, 0.02, 0.03]))
    assert most == 4
    assert [o.due_s for o in traffic.outcomes] == [0.0, 0.01, 0.02, 0.03]
    assert all(o.latency_s >= 0.29 and 0 <= o.late_s <= o.latency_s for o in traffic.outcomes)


def test_memory_of_a_process_that_has_ended_is_none():
    assert resident_bytes(psutil.Process(os.getpid())) > 1_000_000
    child = psutil.Popen(["true"])
    child.wait()
    assert resident_bytes(child) is None


@pytest.mark.parametrize("wrong", [{"load": 0}, {"seconds": -1}, {"clients": 0}])
def test_options_must_be_positive(wrong):
    with pytest.raises(InvalidSoak, match=next(iter(wrong))):
        SteadyOptions(**wrong)


@pytest.mark.parametrize("arguments", [["--load", "0.5"], ["--minutes", "1", "--requests", "5"]])
def test_arguments_that_do_not_go_together_are_refused(arguments, capsys):
    assert cli.main(["soak", *arguments]) == 2
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.server
@pytest.mark.timeout(120)
def test_an_interrupted_soak_keeps_what_it_measured(smollm2_server, tmp_path):
    output = tmp_path / "soak.json"
    options = SteadyOptions(seconds=600.0, load=0.6, capacity_seconds=1.0, clients=3, texts=1)

    def say(words):
        if words.startswith("capacity"):
            threading.Timer(5.0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with pytest.raises(Interrupted), signals_unwind():
        run_steady(smollm2_server, "smollm2_135m", options, say=say, output=output)
    result = read_result(output)
    assert result["kind"] == "soak"
    assert result["interrupted"].startswith("SIGTERM after ")
    assert result["errors"] == {}
    assert result["right"] > 0
    assert result["requests"] == result["right"] + result["unanswered"]
    assert 0 < result["seconds"] < 60
    assert result["offered_requests_per_s"] == pytest.approx(result["requests"] / result["seconds"])
    assert {row["process"] for row in result["memory"]} >= {"server", "gateway"}


@pytest.mark.server
def test_a_short_real_soak(smollm2_server):
    told = []
    options = SteadyOptions(seconds=4.0, load=0.6, capacity_seconds=1.0, clients=3, texts=1)
    result = run_steady(smollm2_server, "smollm2_135m", options, say=told.append)
    json.dumps(result)
    assert result["errors"] == {}
    assert (
        result["right"]
        == result["requests"]
        == sum(row["requests"] for row in result["latency"][:-1])
    )
    assert result["offered_requests_per_s"] == pytest.approx(result["requests"] / options.seconds)
    ways = {row["way"] for row in result["latency"][:-1] if row["requests"]}
    assert ways == {"gRPC", "gateway"}
    rows = {row["process"]: row for row in result["memory"]}
    assert set(rows) == {"server", "smollm2_135m_encoder", "smollm2_135m_tokenizer", "gateway"}
    assert rows["smollm2_135m_encoder"]["last_third_mb"] > 100
    assert result["server"]["refused"] == 0
    assert result["server"]["rows_per_batch"] >= 1
    assert set(server_processes(smollm2_server.pid)) == set(rows) - {"gateway"}
