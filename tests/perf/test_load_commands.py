"""`latency` and `sweep` from arguments to table and JSON, without server and perf_analyzer."""

import json
import signal
from contextlib import contextmanager

import numpy as np
import pytest

from lasttoken_perf import sweep
from lasttoken_perf.cli import main
from lasttoken_perf.commands import latency
from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.load_tables import steps_table
from lasttoken_perf.objective import peak_texts_per_s, search_rate
from lasttoken_perf.report.page import read_results, render_page
from lasttoken_perf.results import read_result
from lasttoken_perf.server_figures import STEPS
from lasttoken_perf.serving import Serving
from lasttoken_perf.workload import Workload

SERVING = Serving(
    url="127.0.0.1:1",
    metrics_url=None,
    triton_name="m",
    dimensions=2,
    description={"triton_name": "m", "model": "a-model", "precision": "fp32", "max_length": 256},
    pid=None,
    repository=None,
)


@pytest.fixture
def measured(monkeypatch):
    """Install a function of the load point that gives its row's figures, or raises."""

    def install(figures):
        def measure(command, serving, workload, point, *, repeat, objective_ms):
            load = {"load": "concurrency", "concurrency": point.concurrency}
            if point.concurrency is None:
                load = {"load": "request_rate", "request_rate_per_s": point.request_rate_per_s}
            row = {"subject": "lasttoken server", "distribution": workload.distribution, **load,
                   "repeat": repeat, **figures(point)}  # fmt: skip
            if objective_ms is not None and "discarded" not in row:
                row |= {"objective_ms": objective_ms, "goodput_texts_per_s": row["texts_per_s"]}
            workload.count(["a", "b"], np.array([5, 256]), np.array([False, True]))
            return row, None

        @contextmanager
        def served(options, *, cache_folder, say):
            yield SERVING

        def make(serving, name, *, texts, seed):
            return Workload(distribution=name, seed=seed, texts=["a", "b", "c"], known={})

        monkeypatch.setattr(sweep, "measure", measure)
        monkeypatch.setattr(sweep, "make_workload", make)
        monkeypatch.setattr(latency, "open_serving", served)
        monkeypatch.setattr(latency, "install_perf_analyzer", lambda folder, say: ["/x/pa/bin/y/z"])

    return install


def figures(p95_ms=10.0, texts_per_s=100.0, **more):
    """Figures of a point that counts."""
    names = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
    return {"texts_per_s": texts_per_s, "tokens_per_s": 10 * texts_per_s, "p95_ms": p95_ms,
            **dict.fromkeys(names, p95_ms), **more}  # fmt: skip


UNSTABLE = {"discarded": "perf_analyzer found no stable measurement"}


def test_the_table_says_which_model_and_how_many_texts_it_cut(measured, tmp_path, capsys):
    measured(lambda point: figures())
    output = tmp_path / "x.json"
    assert main(["latency", "--distribution", "mixture", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("a-model in fp32; ")
    assert "mixture: 1 of 2 texts" in printed
    assert "cut to its 256 tokens" in printed
    workload = json.loads(output.read_text())["workload"]["mixture"]
    assert (workload["texts"], workload["counted_texts"], workload["truncated_texts"]) == (3, 2, 1)
    assert workload["tokens"] == 261
    assert workload["token_lengths"]["p100"] == 256


# --- nothing measured ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sweep --concurrency", "no load point is asked for"),
        ("sweep --concurrency --objective-ms 1000", "give --concurrency too"),
        ("sweep --concurrency --request-rate 5 --objective-ms 1000", "give --concurrency too"),
    ],
)
def test_points_that_cannot_answer_are_bad_usage(measured, words, said, capsys):
    measured(lambda point: pytest.fail("it was measured"))
    assert main(words.split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_discarded_points_alone_are_no_success_but_are_written(measured, tmp_path, capsys):
    measured(lambda point: UNSTABLE)
    output = tmp_path / "x.json"
    words = ["sweep", "--concurrency", "1", "2", "--repeats", "2", "--output", str(output)]
    assert main(words) == 1
    assert (
        "error: nothing was measured: all 4 load points were discarded" in capsys.readouterr().err
    )
    assert len(read_result(output)["rows"]) == 4


# --- the objective -------------------------------------------------------------------------------


def test_the_search_finds_the_highest_rate_within_the_objective():
    tried = []

    def p95_ms(rate):
        tried.append(rate)
        return None if rate > 90 else 10 * rate

    found = search_rate(p95_ms, highest=100.0, objective_ms=300.0, steps=12)
    assert found == pytest.approx(30.0, abs=0.1)
    assert found <= 30.0
    assert len(tried) == 12
    assert search_rate(lambda rate: 1e9, highest=100.0, objective_ms=300.0, steps=4) is None


def test_a_search_ends_at_the_closed_loops_throughput_and_never_at_a_guess():
    closed = {"distribution": "queries", "load": "concurrency", "texts_per_s": 40.0}
    opened = {**closed, "load": "request_rate", "texts_per_s": 5.0}
    assert peak_texts_per_s([closed, opened], "queries") == 40.0
    assert peak_texts_per_s([{**closed, **UNSTABLE}, opened], "queries") is None


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("20", "75.0 requests/s is the highest rate tried with a p95 within 20 ms (goodput there "
               "70.0 texts/s)"),
        ("1", "no rate that was tried has its p95 within 1 ms"),
    ],
)  # fmt: skip
def test_the_answer_is_printed(measured, objective, said, capsys):
    measured(lambda point: figures() if point.concurrency else figures(10.0, 70.0))
    words = ["sweep", "--concurrency", "4", "--repeats", "1", "--search-steps", "2"]
    assert main([*words, "--objective-ms", objective]) == 0
    printed = capsys.readouterr().out
    assert f"mixture: {said}" in printed
    assert "| texts/s within the objective |" in printed


def test_without_a_point_to_search_from_there_is_no_answer(measured, tmp_path, capsys):
    measured(lambda point: UNSTABLE if point.concurrency else figures())
    output = tmp_path / "x.json"
    words = ["sweep", "--concurrency", "4", "--request-rate", "5", "--objective-ms", "20"]
    assert main([*words, "--output", str(output)]) == 0
    assert "no closed-loop point counts, so no rate is searched" in capsys.readouterr().err
    assert json.loads(output.read_text())["settings"]["rate_at_objective_per_s"] == {}


# --- interrupted ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_finished_points_are_written_and_marked(measured, number, tmp_path, capsys):
    seen = []

    def until_the_third(point):
        seen.append(point)
        if len(seen) == 3:
            raise Interrupted(number)
        return figures()

    measured(until_the_third)
    output = tmp_path / "x.json"
    words = ["latency", "--distribution", "queries", "--repeats", "50", "--output", str(output)]
    assert main(words) == 128 + number
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == (f"interrupted by {number.name}; what was finished before it is in {output}")
    result = read_result(output)
    assert len(result["rows"]) == 2
    assert result["interrupted"] == f"{number.name} after 2 load points"
    page = render_page(read_results([output]), title="t")
    assert f"Interrupted ({number.name} after 2 load points)" in page


def test_points_are_kept_when_a_later_one_fails(measured, tmp_path, capsys):
    def refused_at_many(point):
        if point.concurrency == 64:
            raise PeerFailed("perf_analyzer: a request was refused")
        return figures()

    measured(refused_at_many)
    output = tmp_path / "x.json"
    words = ["sweep", "--concurrency", "1", "16", "64", "--repeats", "1", "--output", str(output)]
    assert main(words) == 1
    assert f"what was finished before it is in {output}" in capsys.readouterr().err
    result = read_result(output)
    assert [row["concurrency"] for row in result["rows"]] == [1, 16]
    assert result["interrupted"] == "PeerFailed after 2 load points"


def test_many_at_a_time_warm_up_with_two_requests_each(measured):
    points = []
    measured(lambda point: points.append(point) or figures())
    assert main(["sweep", "--concurrency", "4", "64", "--repeats", "1"]) == 0
    assert [point.warmup_requests for point in points] == [32, 128]


def test_before_the_first_point_there_is_nothing_to_write(measured, tmp_path, capsys):
    def at_once(point):
        raise Interrupted(signal.SIGTERM)

    measured(at_once)
    output = tmp_path / "x.json"
    assert main(["latency", "--output", str(output)]) == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"
    assert not output.exists()


# --- the parts of a request ----------------------------------------------------------------------


def spread(value):
    return {"min": value, "median": value, "max": value}


@pytest.mark.parametrize(("outside", "cell"), [(-0.8, " - "), (0.8, " 0.80 ")])
def test_a_rest_below_zero_is_no_figure(outside, cell):
    figures = {"server_ms": 6.1, "outside_ms": outside, "mean_ms": 5.2, **dict.fromkeys(STEPS, 1.0)}
    point = {"distribution": "queries", "concurrency": 4}
    point |= {name: spread(value) for name, value in figures.items()}
    lines = list(steps_table([point]))
    column = lines[0].split("|").index(" outside ")
    assert lines[2].split("|")[column] == cell
    assert lines[2].split("|")[column - 1] == " 6.10 "
    assert any(line.startswith("outside -:") for line in lines) == (outside < 0)
