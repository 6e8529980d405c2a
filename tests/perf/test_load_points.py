"""Rows of load points: metrics, checks, resources, the search for a rate."""

import os

import numpy as np
import pytest

from lasttoken_perf import server_figures
from lasttoken_perf.answers import check_answers, worst
from lasttoken_perf.corpus import DISTRIBUTIONS, texts_of
from lasttoken_perf.errors import UnknownWorkload, WrongAnswer
from lasttoken_perf.latency import latency_fields
from lasttoken_perf.monitor import ResourceMonitor
from lasttoken_perf.results import FIELDS

SCRAPE = """
# HELP nv_inference_request_success Number
nv_inference_request_success{model="m_tokenizer",version="1"} 10
nv_inference_request_success{model="m_encoder",version="1"} 10
nv_inference_request_duration_us{model="m_tokenizer",version="1"} 50000
nv_inference_queue_duration_us{model="m_tokenizer",version="1"} 20000
nv_inference_request_duration_us{model="m_encoder",version="1"} 10000
nv_inference_request_success{model="m",version="1"} 10
nv_inference_request_duration_us{model="m",version="1"} 3580000
lasttoken_encoder_batches_total{model="m_encoder",version="1"} 5
lasttoken_encoder_rows_total{model="m_encoder",version="1"} 10
lasttoken_encoder_real_tokens_total{model="m_encoder",version="1"} 400
lasttoken_encoder_computed_tokens_total{model="m_encoder",version="1"} 500
lasttoken_encoder_real_attention_cells_total{model="m_encoder",version="1"} 30
lasttoken_encoder_computed_attention_cells_total{model="m_encoder",version="1"} 40
lasttoken_encoder_batch_seconds_total{model="m_encoder",version="1"} 1.5
lasttoken_encoder_row_engine_seconds_total{model="m_encoder",version="1"} 3
lasttoken_encoder_queue_seconds_total{model="m_encoder",version="1"} 0.5
lasttoken_encoder_answer_seconds_total{model="m_encoder",version="1"} 0.01
lasttoken_encoder_refused_total{model="m_encoder",reason="overloaded",version="1"} 2
lasttoken_encoder_refused_total{model="m_encoder",reason="expired",version="1"} 1
lasttoken_encoder_rows_total{model="other_encoder",version="1"} 999
"""


def test_counters_that_are_being_told_are_read_again(monkeypatch):
    told = [{"batches": 8.0, "rows": 7.0}, {"batches": 8.0, "rows": 8.0}]
    readings = iter([*told, told[1], {"batches": 9.0, "rows": 9.0}])
    monkeypatch.setattr(server_figures, "scrape", lambda url: next(readings))
    assert server_figures.settled_scrape("http://here") == told[1]
    changing = iter(range(1000))
    monkeypatch.setattr(server_figures, "scrape", lambda url: {"rows": float(next(changing))})
    assert server_figures.settled_scrape("http://here", patience_s=0.2)["rows"] > 1


def test_figures_are_differences_of_the_models_own_series():
    after = server_figures.parse_metrics(SCRAPE)
    row = server_figures.figures({}, after, "m", seconds=2.0)
    assert row["refused"] == 3
    assert row["tokenizer_queue_ms"] == 2.0
    assert row["tokenizer_compute_ms"] == 3.0
    assert row["encoder_transfer_ms"] == 1.0
    assert row["server_ms"] == 358.0
    assert row["encoder_queue_ms"] == 50.0
    assert row["encoder_engine_ms"] == 300.0
    assert row["encoder_answer_ms"] == pytest.approx(1.0)
    assert row["tokens_per_batch"] == 80
    assert row["rows_per_batch"] == 2
    assert row["batch_ms"] == 300.0
    assert row["engine_busy"] == 0.75
    assert row["real_over_computed_tokens"] == 0.8
    assert row["real_over_computed_cells"] == 0.75
    assert row.keys() <= FIELDS.keys()
    whole = server_figures.with_outside({**row, "mean_ms": 360.0})
    assert whole["outside_ms"] == pytest.approx(360 - 2 - 3 - 1 - 50 - 300 - 1)
    assert server_figures.figures(after, after, "m", seconds=2.0) == {"refused": 0}


def test_latency_fields():
    fields = latency_fields(np.arange(1, 102, dtype=np.float64))
    assert fields == {
        "mean_ms": 51.0, "p50_ms": 51.0, "p90_ms": 91.0, "p95_ms": 96.0, "p99_ms": 100.0,
        "max_ms": 101.0,
    }  # fmt: skip


KNOWN = {"a": np.array([0.6, 0.8], np.float32)}


@pytest.mark.parametrize(
    ("texts", "vectors", "message"),
    [
        (["a", "b"], [[0.6, 0.8]], "shape"),
        (["a", "b"], [[0.6, 0.8], [0.6, 0.9]], "norm"),
        (["b", "a"], [[0.6, 0.8], [0.8, 0.6]], "cosine"),
        (["b"], [[0.6, 0.8]], "nothing could be compared"),
        ([], np.empty((0, 2)), "shape"),
    ],
)
def test_wrong_answers_are_no_result(texts, vectors, message):
    with pytest.raises(WrongAnswer, match=message):
        check_answers(texts, np.array(vectors, np.float32), 2, KNOWN)


def test_a_server_with_one_vector_for_all_texts_is_found():
    same = {text: np.array([0.6, 0.8], np.float32) for text in "abc"}
    with pytest.raises(WrongAnswer, match="3 different texts share a vector"):
        check_answers(["a", "b"], np.array([[0.6, 0.8]] * 2, np.float32), 2, same)


def test_right_answers_say_how_near_they_are():
    vectors = np.array([[0.6, 0.8], [1, 0], [0.6, 0.8]], np.float32)
    check = check_answers(["a", "b", "a"], vectors, 2, KNOWN)
    assert (check["vectors"], check["known_vectors"]) == (3, 2)
    assert check["largest_difference"] == 0
    both = worst([check, {**check, "lowest_cosine": 0.99995, "largest_difference": 1e-4}])
    assert both["vectors"] == 6
    assert both["lowest_cosine"] == 0.99995
    assert both["largest_difference"] == 1e-4


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_texts_have_the_lengths_of_their_distribution(name):
    lengths = DISTRIBUTIONS[name]
    texts = texts_of(name, 200, seed=1)
    words = np.array([len(text.split()) for text in texts])
    assert words.min() >= lengths.shortest_words
    assert words.max() <= lengths.longest_words
    assert 0.7 * lengths.median_words < np.median(words) < 1.4 * lengths.median_words
    assert texts == texts_of(name, 200, seed=1)
    assert texts != texts_of(name, 200, seed=2)


def test_an_instruction_stands_before_each_text_and_changes_none():
    texts = texts_of("queries", 5, seed=1)
    instructed = texts_of("queries", 5, seed=1, instruction="Find it")
    assert instructed == [f"Instruct: Find it\nQuery: {text}" for text in texts]


def test_an_unknown_distribution_names_the_known_ones():
    with pytest.raises(UnknownWorkload, match=r"'poems'.*mixture"):
        texts_of("poems", 1, seed=1)


def test_the_monitor_sees_processor_time_and_memory():
    with ResourceMonitor(os.getpid()) as monitor:
        total = 0
        while total < 3_000_000:
            total += 1
    fields = monitor.fields()
    assert fields["cpu_cores"] > 0.01
    assert fields["rss_bytes"] > 10_000_000
    assert fields.keys() <= FIELDS.keys()
    with ResourceMonitor(None) as monitor:
        pass
    assert "cpu_cores" not in monitor.fields()
