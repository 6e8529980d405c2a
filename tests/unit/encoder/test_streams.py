"""How many streams a graph has, in how many sessions, and that they change no bit."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import engine_choice
import numpy as np
import onnxruntime_session
import pytest
import streams
from encoder_settings import InvalidSettings
from onnxruntime_session import GraphSessions
from streams import ONE_AT_A_TIME, Streams, are_exact, streams_of

from unit.encoder.test_encoder_settings import parameters
from unit.encoder.test_processor import product

__all__ = ["parameters"]  # a fixture


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """A graph of 1,000 bytes with its data, on a machine of four cores and 16,000 bytes."""
    monkeypatch.setattr(streams, "limited_cores", lambda: None)
    monkeypatch.setattr(streams, "physical_cores", lambda processors: 4)
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 16000)
    (tmp_path / "encoder.onnx").write_bytes(b"x" * 100)
    (tmp_path / "encoder.onnx.data").write_bytes(b"x" * 900)
    return tmp_path / "encoder.onnx"


def found(graph, runtime="onnxruntime-cpu", asked=0, threads=0, precision="fp32"):
    return streams_of(
        graph, precision=precision, runtime=runtime, asked=asked, intra_op_threads=threads
    )


def test_one_a_thread_that_the_process_has(graph, monkeypatch):
    assert found(graph).count == 4
    assert found(graph, threads=3).count == 3
    monkeypatch.setattr(streams, "limited_cores", lambda: 2)
    assert found(graph).count == 2
    monkeypatch.setattr(streams, "limited_cores", lambda: 1)
    assert found(graph) == ONE_AT_A_TIME


def test_more_than_were_measured_only_when_asked_for(graph):
    assert found(graph, threads=8).count == 8
    assert found(graph, threads=9) == ONE_AT_A_TIME
    assert found(graph, threads=9, asked=9).count == 9


@pytest.mark.parametrize(
    ("free", "sessions"), [(10**6, 4), (16000, 4), (15999, 3), (8000, 2), (7999, 1), (4000, 1)]
)
def test_a_session_each_as_far_as_a_quarter_of_the_memory_goes(graph, monkeypatch, free, sessions):
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: free)
    assert found(graph) == found(graph, asked=4) == Streams(count=4, sessions=sessions)


@pytest.mark.parametrize(
    ("precision", "sessions"),
    [("fp32", 4), ("int8", 4), ("int4", 4), ("fp16", 2), ("int8-weights", 2)],
)
def test_weights_count_as_large_as_they_are_in_memory(graph, monkeypatch, precision, sessions):
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 16000)
    assert found(graph, precision=precision) == Streams(count=4, sessions=sessions)
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 7999)
    assert (found(graph, precision=precision) == ONE_AT_A_TIME) is (sessions == 2)


def test_none_where_a_second_copy_of_the_weights_is_large(graph, monkeypatch, caplog):
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 3999)
    assert found(graph) == ONE_AT_A_TIME
    assert "second copy" in caplog.text
    assert found(graph, asked=2) == Streams(count=2, sessions=1)


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_none_on_a_gpu(graph, runtime):
    assert found(graph, runtime=runtime) == ONE_AT_A_TIME


def test_one_when_one_is_asked_for(graph):
    assert found(graph, asked=1) == ONE_AT_A_TIME


@pytest.mark.parametrize(
    ("runtime", "value"), [("onnxruntime-cpu", "-1"), ("onnxruntime-cuda", "2")]
)
def test_settings_that_cannot_be_are_refused(parameters, runtime, value):
    parameters["runtime"] = {"string_value": runtime}
    parameters["streams"] = {"string_value": value}
    with pytest.raises(InvalidSettings, match="parameter streams is"):
        engine_choice.EncoderSettings.from_parameters(parameters)


def threads_of(session):
    return session.get_session_options().intra_op_num_threads


@pytest.fixture
def ran(monkeypatch):
    """The sessions that were run."""
    sessions = []
    monkeypatch.setattr(
        "onnxruntime_session.run_session",
        lambda session, feeds, outputs: sessions.append(session) or session,
    )
    return sessions


def run_in_streams(sessions, count):
    """Run twice on each of so many threads, which keep to their sessions."""
    ready = Barrier(count)

    def of_one_thread(_):
        ready.wait(timeout=10)  # no thread takes two of them
        assert sessions.run_in_stream({}) is sessions.run_in_stream({})

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(of_one_thread, range(count)))


def test_each_stream_has_a_session_of_one_thread_and_keeps_to_it(tmp_path, ran):
    path, _ = product(tmp_path)
    sessions = GraphSessions(path, "onnxruntime-cpu", intra_op_threads=2, stream_sessions=3)
    sessions.run({})
    [whole] = ran
    ran.clear()
    run_in_streams(sessions, 3)
    assert threads_of(whole) == 2
    assert {threads_of(session) for session in ran} == {1}
    assert sorted(map(ran.count, set(ran))) == [2, 2, 2]


def test_streams_share_the_sessions_that_there_are(tmp_path, ran):
    path, _ = product(tmp_path)
    sessions = GraphSessions(path, "onnxruntime-cpu", intra_op_threads=2, stream_sessions=2)
    run_in_streams(sessions, 4)
    assert sorted(map(ran.count, set(ran))) == [4, 4]


def test_no_further_session_where_it_would_be_the_same_or_unused(tmp_path, ran, monkeypatch):
    path, _ = product(tmp_path)
    opened = []
    session = onnxruntime_session.open_session
    monkeypatch.setattr(
        onnxruntime_session,
        "open_session",
        lambda *args, **options: opened.append(options) or session(*args, **options),
    )
    sessions = GraphSessions(path, "onnxruntime-cpu", intra_op_threads=1, stream_sessions=1)
    sessions.run_in_stream({})
    assert ran == [sessions.whole]
    GraphSessions(path, "onnxruntime-cpu", intra_op_threads=2, stream_sessions=0)
    assert len(opened) == 2


class Engine:
    """Its streams are wrong in the last bit for rows longer than a length."""

    def __init__(self, *, wrong_beyond=10**9):
        self.wrong_beyond = wrong_beyond
        self.seen = []

    def encode(self, ids, lengths):
        assert ids.dtype == lengths.dtype == np.int32
        assert len(ids) == lengths.sum()
        self.seen.append((ids.max(), lengths.tolist()))
        return np.ones((len(lengths), 3), np.float32)

    def encode_in_stream(self, ids, lengths):
        vectors = self.encode(ids, lengths)
        vectors[lengths > self.wrong_beyond] = np.nextafter(np.float32(1), np.float32(2))
        return vectors


@pytest.mark.parametrize("max_length", [4, 40, 4096])
def test_streams_are_compared_in_every_bit(max_length):
    engine = Engine()
    assert are_exact(engine, max_length=max_length, vocab_size=50)
    assert all(highest < 50 and max(rows) <= max_length for highest, rows in engine.seen)
    assert any(len(rows) > 1 for _, rows in engine.seen)
    assert any(len(rows) == 1 for _, rows in engine.seen)
    assert not are_exact(Engine(wrong_beyond=2), max_length=max_length, vocab_size=50)


@pytest.mark.parametrize(("exact", "left"), [(True, 2), (False, 1)])
def test_a_processor_on_which_they_differ_has_none(exact, left, tmp_path, monkeypatch, caplog):
    opened, keeping = [], []
    monkeypatch.setattr(engine_choice, "are_exact", lambda engine, **sizes: exact)

    def kind(graph, *, streams=ONE_AT_A_TIME, **options):
        opened.append(streams.count)
        return SimpleNamespace(streams=streams.count, keep_prefixes=keeping.append)

    monkeypatch.setattr(engine_choice, "OnnxRuntimeEngine", kind)
    settings = SimpleNamespace(
        runtime="onnxruntime-cpu", graph_form="packed", precision="fp32", intra_op_threads=2,
        streams=2, max_length=9, vocab_size=9, kept_prefix_tokens=70,
    )  # fmt: skip
    assert engine_choice.open_engine(tmp_path, settings).streams == left
    assert keeping == [70]  # after they were compared, or kept tokens were
    assert opened[-1] == left
    assert ("last bits" in caplog.text) == (not exact)
