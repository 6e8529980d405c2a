"""The real perf_analyzer against a real server: a closed-loop and an open-loop point."""

import argparse
import time

import pytest

from lasttoken.local.cache_folder import default_cache_folder
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.perf_analyzer.install import install_perf_analyzer
from lasttoken_perf.results import check_result
from lasttoken_perf.served import read_metrics
from lasttoken_perf.serving import open_serving
from lasttoken_perf.sweep import SweepOptions, run_sweep

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def perf_analyzer(cache_folder):
    return install_perf_analyzer(cache_folder or default_cache_folder(), lambda words: None)


@pytest.fixture
def serving(smollm2_server):
    options = argparse.Namespace(
        url=smollm2_server.grpc_url, metrics_url=smollm2_server.metrics_url, triton_name=None
    )
    with open_serving(options, cache_folder=None, say=lambda words: None) as serving:
        yield serving


def sweep(perf_analyzer, serving, **load):
    options = SweepOptions(
        distributions=["queries"], repeats=1, texts=8, requests=4, warmup_requests=2,
        stability=1000.0, **load,
    )  # fmt: skip
    return run_sweep("sweep", perf_analyzer, serving, options, say=lambda words: None)


def settled_tokens(serving):
    """Tokens that the encoder has counted by kind, once nothing is counted any more."""
    kinds = ("real", "computed", "shared", "kept")
    before, later = None, {}
    while before != later:
        time.sleep(0.5)  # counted after the answers are sent
        metrics = read_metrics(serving.metrics_url)
        before = later
        later = {kind: metrics[f"lasttoken_encoder_{kind}_tokens_total"] for kind in kinds}
    return later


def test_both_loops_are_measured_and_checked(perf_analyzer, serving):
    before = settled_tokens(serving)
    result = sweep(perf_analyzer, serving, concurrencies=[2], request_rates_per_s=[2.0])
    check_result(result)
    closed, opened = result["rows"]
    assert (closed["load"], closed["concurrency"]) == ("concurrency", 2)
    assert (opened["load"], opened["request_rate_per_s"]) == ("request_rate", 2.0)
    assert "discarded" not in closed
    assert "discarded" not in opened
    assert 0 < opened["p50_ms"] <= opened["max_ms"]
    assert closed["requests"] >= 12  # three windows of four
    assert 0 < closed["p50_ms"] <= closed["p99_ms"] <= closed["max_ms"]
    assert closed["tokens_per_s"] > closed["texts_per_s"] > 0
    after = settled_tokens(serving)
    real, computed, shared, kept = (after[kind] - before[kind] for kind in after)
    assert real == computed + shared + kept > 0  # nothing was padded
    assert closed["real_over_computed_tokens"] >= 1.0  # more by what was shared or kept
    assert closed["encoder_engine_ms"] > 0
    assert closed["refused"] == 0
    assert result["checks"]["known_vectors"] >= 12
    assert result["checks"]["largest_difference"] == 0  # bitwise the vector that the text has alone
    assert result["model"]["precision"] == "fp32"


def test_wrong_vectors_are_not_reported(perf_analyzer, serving, monkeypatch):
    import lasttoken_perf.sweep as module

    def turned_round(*arguments, **options):
        workload = make_workload(*arguments, **options)
        for text, vector in workload.known.items():
            workload.known[text] = -vector
        return workload

    make_workload = module.make_workload
    monkeypatch.setattr(module, "make_workload", turned_round)
    with pytest.raises(WrongAnswer, match="cosine"):
        sweep(perf_analyzer, serving, concurrencies=[1])
