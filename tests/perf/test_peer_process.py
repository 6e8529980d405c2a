"""The protocol with a peer's process."""

import signal

import numpy as np
import pytest

from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.peers.process import PeerProcess

PEER = """
import sys
import time
import numpy as np
from lasttoken_perf.peers.process import Embedder, serve_peer

def load(settings):
    if settings["fate"] == "dies while loading":
        raise RuntimeError("no such weights")
    print("a library's chatter")
    runs = []
    def embed():
        if settings["fate"] == "dies while embedding":
            sys.exit(3)
        if settings["fate"] == "hangs":
            time.sleep(600)
        print("more chatter")
        runs.append(1)
        return np.full((2, 3), len(runs), np.float32)
    single = lambda index: np.full(3, 10 + index, np.float32)
    return Embedder(version="7.1", corpus=embed, single=single)

serve_peer(load)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    (tmp_path / "toy_peer.py").write_text(PEER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(fate, **options):
        return PeerProcess("toy_peer", {"fate": fate, "queries": ["a", "b"]}, tmp_path, **options)

    return make


def test_each_run_brings_its_own_vectors_and_time(start):
    with start("lives") as peer:
        first, second = peer.corpus(), peer.corpus()
    assert np.array_equal(first.vectors, np.full((2, 3), 1, np.float32))
    assert np.array_equal(second.vectors, np.full((2, 3), 2, np.float32))
    assert first.seconds > 0
    assert first.latency_ms == ()


def test_queries_are_timed_one_by_one(start):
    with start("lives") as peer:
        run = peer.single()
    assert run.vectors.tolist() == [[10.0] * 3, [11.0] * 3]
    assert len(run.latency_ms) == 2
    assert 0 < sum(run.latency_ms) / 1000 <= run.seconds
    assert peer.version == "7.1"


def test_a_peer_that_dies_is_told_with_its_last_words(start):
    with pytest.raises(PeerFailed, match=r"(?s)toy_peer ended with 1.*no such weights"):
        start("dies while loading")
    with start("dies while embedding") as peer, pytest.raises(PeerFailed, match="ended with 3"):
        peer.corpus()


def test_a_peer_that_is_dead_when_it_is_asked_is_told_too(start):
    with start("lives") as peer:
        peer._process.kill()
        peer._process.wait()
        with pytest.raises(PeerFailed, match="ended with -9"):
            peer.corpus()


def test_a_peer_that_hangs_is_told_and_ended(start):
    with start("hangs", answer_s=20) as peer:
        peer.single()
        peer._answer_s = 0.2
        with pytest.raises(PeerFailed, match=r"toy_peer gave no answer within 0.2 s"):
            peer.corpus()
        assert peer._process.wait(timeout=20) == -signal.SIGKILL
