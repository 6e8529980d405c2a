"""The number in flight follows what the server bears; no server and no clock."""

from __future__ import annotations

import heapq

from lasttoken.window import Window


def simulate(window: Window, *, workers: int, service_s: float, requests: int, queue: int) -> dict:
    """A server with some workers and a queue that refuses what is beyond it."""
    now, sent, refused, peak, answered = 0.0, 0, 0, 0, 0
    free_at = [0.0] * workers
    in_flight: list[tuple[float, float]] = []  # (answer due, sent)
    while answered < requests:
        while len(in_flight) < window.limit and sent < requests + refused:
            sent += 1
            if len(in_flight) >= workers + queue:
                refused += 1
                window.refused(now)
                break
            start = max(now, heapq.heappop(free_at))
            heapq.heappush(free_at, start + service_s)
            heapq.heappush(in_flight, (start + service_s, now))
        peak = max(peak, len(in_flight))
        now, sent_at = heapq.heappop(in_flight)
        window.answered(size_bytes=500, latency_s=now - sent_at, in_flight=len(in_flight) + 1)
        answered += 1
    return {"seconds": now, "refused": refused, "peak": peak}


def test_it_starts_with_a_few_and_grows_while_answers_come_as_fast():
    window = Window(64)
    assert window.limit == 4
    run = simulate(window, workers=100, service_s=0.1, requests=600, queue=100)
    assert window.limit == 64
    assert run["refused"] == 0


def test_it_stops_growing_when_requests_only_wait():
    window = Window(64)
    run = simulate(window, workers=1, service_s=0.1, requests=400, queue=1000)
    assert 4 <= window.limit <= 16
    assert run["seconds"] < 400 * 0.1 * 1.01  # the worker never had to wait


def test_it_uses_many_workers():
    window = Window(64)
    run = simulate(window, workers=16, service_s=0.1, requests=800, queue=1000)
    assert run["seconds"] < 800 / 16 * 0.1 * 1.25
    assert 16 <= window.limit <= 40


def test_refusals_halve_it_and_it_recovers():
    window = Window(64)
    simulate(window, workers=100, service_s=0.1, requests=600, queue=100)
    window.refused(1000.0)
    assert window.limit == 32
    window.refused(1000.001)  # of the same moment: counts once
    assert window.limit == 32
    window.refused(1001.0)
    assert window.limit == 16
    for moment in range(1002, 1100):
        window.refused(float(moment))
    assert window.limit == 1  # never none
    simulate(window, workers=100, service_s=0.1, requests=3000, queue=100)
    assert window.limit > 32


def test_an_unused_window_does_not_grow():
    window = Window(64)
    for _ in range(100):
        window.answered(size_bytes=10, latency_s=0.01, in_flight=1)
    assert window.limit == 4


def test_the_bound_is_kept():
    assert Window(1).limit == 1
    window = Window(3)
    simulate(window, workers=100, service_s=0.1, requests=100, queue=100)
    assert window.limit == 3
