"""A deterministic engine and an observer that remembers."""

from __future__ import annotations

import threading

import numpy as np
from computed_work import packed_work, padded_work


def vector_of(tokens):
    """The vector [4] that the fake engine gives a row: it tells rows apart exactly."""
    total = int(np.asarray(tokens, np.int64).sum())
    return np.array([len(tokens), tokens[0], tokens[-1], total % 9973], np.float32)


class FakeEngine:
    """Records batches; optionally waits at a gate, fails on a token, or gives NaN for one."""

    runs_beside = False
    shares_prefixes = False

    def __init__(self, *, poison=None, nan=None, padded=False):
        self.batches = []
        self.computed_work = padded_work if padded else packed_work
        self.poison, self.nan = poison, nan
        self.gate = threading.Event()
        self.gate.set()
        self.running = threading.Event()

    def wait(self, input_ids):
        self.running.set()
        assert self.gate.wait(30)
        self.running.clear()

    def encode(self, input_ids, row_lengths):
        self.wait(input_ids)
        assert input_ids.dtype == np.int32
        assert row_lengths.dtype == np.int32
        assert len(input_ids) == row_lengths.sum()
        self.batches.append(row_lengths.tolist())
        rows = np.split(input_ids, np.cumsum(row_lengths)[:-1])
        if any(self.poison in row for row in rows):
            raise RuntimeError("poisoned")
        vectors = np.stack([vector_of(row) for row in rows])
        vectors[[self.nan in row for row in rows]] = np.nan
        return vectors


class Observer:
    def __init__(self):
        self.reports, self.dropped = [], []
        self.queue_tokens = None

    def batch_done(self, report):
        self.reports.append(report)
        self.queue_tokens = report.queue_tokens

    def request_dropped(self, reason):
        self.dropped.append(reason)

    def set_queue_tokens(self, tokens):
        self.queue_tokens = tokens


class Answer:
    """Collects the answer of one request and counts how often it came."""

    def __init__(self):
        self.values = []
        self.arrived = threading.Event()

    def __call__(self, value):
        self.values.append(value)
        self.arrived.set()

    def wait(self, timeout_s=30):
        assert self.arrived.wait(timeout_s), "no answer"
        assert len(self.values) == 1
        return self.values[0]
