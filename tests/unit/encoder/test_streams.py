"""How many streams a graph has, and that they change no bit."""

from types import SimpleNamespace

import engine_choice
import numpy as np
import pytest
import streams
from encoder_settings import InvalidSettings
from onnxruntime_session import GraphSessions
from streams import are_exact, streams_of

from unit.encoder.test_encoder_settings import parameters
from unit.encoder.test_processor import product

__all__ = ["parameters"]  # a fixture


@pytest.fixture
def graph(tmp_path, monkeypatch):
    """A graph of 1,000 bytes with its data, on a machine of four cores and 4,000 bytes."""
    monkeypatch.setattr(streams, "limited_cores", lambda: None)
    monkeypatch.setattr(streams, "physical_cores", lambda processors: 4)
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 4000)
    (tmp_path / "encoder.onnx").write_bytes(b"x" * 100)
    (tmp_path / "encoder.onnx.data").write_bytes(b"x" * 900)
    return tmp_path / "encoder.onnx"


def count(graph, runtime="onnxruntime-cpu", asked=0, threads=0):
    return streams_of(graph, runtime=runtime, asked=asked, intra_op_threads=threads)


def test_one_a_thread_that_the_process_has(graph, monkeypatch):
    assert count(graph) == 4
    assert count(graph, threads=3) == 3
    monkeypatch.setattr(streams, "limited_cores", lambda: 2)
    assert count(graph) == 2
    monkeypatch.setattr(streams, "limited_cores", lambda: 1)
    assert count(graph) == 1


def test_more_than_were_measured_only_when_asked_for(graph):
    assert count(graph, threads=8) == 8
    assert count(graph, threads=9) == 1
    assert count(graph, threads=9, asked=9) == 9


def test_none_where_a_second_copy_of_the_weights_is_large(graph, monkeypatch, caplog):
    monkeypatch.setattr(streams, "available_memory_bytes", lambda: 3999)
    assert count(graph) == 1
    assert "second copy" in caplog.text
    assert count(graph, asked=2) == 2


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_none_on_a_gpu(graph, runtime):
    assert count(graph, runtime=runtime) == 1


def test_one_when_one_is_asked_for(graph):
    assert count(graph, asked=1) == 1


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
        "onnxruntime_session.run_session", lambda session, feeds: sessions.append(session)
    )
    return sessions


def test_a_stream_has_one_thread(tmp_path, ran):
    path, _ = product(tmp_path)
    sessions = GraphSessions(path, "onnxruntime-cpu", intra_op_threads=2, streams=2)
    sessions.run({})
    sessions.run_in_stream({})
    assert [threads_of(session) for session in ran] == [2, 1]


@pytest.mark.parametrize(("threads", "count"), [(1, 4), (2, 1)])
def test_no_second_session_where_it_would_be_the_same_or_unused(tmp_path, threads, count, ran):
    path, _ = product(tmp_path)
    sessions = GraphSessions(path, "onnxruntime-cpu", intra_op_threads=threads, streams=count)
    sessions.run_in_stream({})
    assert ran == [sessions.whole]


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
    opened = []
    monkeypatch.setattr(engine_choice, "are_exact", lambda engine, **sizes: exact)

    def kind(graph, *, streams=1, **options):
        opened.append(streams)
        return SimpleNamespace(streams=streams)

    monkeypatch.setattr(engine_choice, "OnnxRuntimeEngine", kind)
    settings = SimpleNamespace(
        runtime="onnxruntime-cpu", graph_form="packed", precision="fp32", intra_op_threads=2,
        streams=2, max_length=9, vocab_size=9,
    )  # fmt: skip
    assert engine_choice.open_engine(tmp_path, settings).streams == left
    assert opened[-1] == left
    assert ("last bits" in caplog.text) == (not exact)
