"""perf_analyzer: what is asked of it, what is read from it, what is never taken for it."""

import json

import pytest

from lasttoken_perf.errors import MalformedResult, ToolUnavailable, WrongAnswer
from lasttoken_perf.perf_analyzer import debian_runtime, install
from lasttoken_perf.perf_analyzer.profile_export import read_profile_export
from lasttoken_perf.perf_analyzer.run import LoadPoint, judge, load_arguments


def request(sent_ns, answered_ns, text="a", vector=(0.6, 0.8), *, truncated=False):
    return {
        "timestamp": sent_ns,
        "request_inputs": {"TEXT": text},
        "response_timestamps": [answered_ns] if answered_ns else [],
        "response_outputs": [
            {"TRUNCATED": truncated, "TOKEN_COUNT": 3, "EMBEDDING": list(vector)},
        ],
    }


def export(tmp_path, requests, boundaries=(0, 1_000_000_000, 2_000_000_000)):
    path = tmp_path / "profile.json"
    experiment = {"requests": requests, "window_boundaries": list(boundaries)}
    path.write_text(json.dumps({"experiments": [experiment]}))
    return path


def test_latencies_vectors_and_time_are_those_of_the_windows(tmp_path):
    seen = read_profile_export(
        export(
            tmp_path,
            [
                request(5_000_000, 15_000_000, "one"),
                request(900_000_000, 1_100_000_000, "two", (1.0, 0.0), truncated=True),
                request(1_900_000_000, 2_100_000_000, "after the last window"),
                request(1_950_000_000, 0, "never answered"),
            ],
        )
    )
    assert seen.texts == ["one", "two"]
    assert seen.latency_ms.tolist() == [10.0, 200.0]
    assert seen.token_counts.tolist() == [3, 3]
    assert seen.truncated.tolist() == [False, True]
    assert seen.vectors.tolist()[1] == [1.0, 0.0]
    assert seen.seconds == 2.0


def test_an_answer_without_vector_is_wrong_and_another_file_is_refused(tmp_path):
    bare = request(1, 2)
    del bare["response_outputs"][0]["EMBEDDING"]
    with pytest.raises(WrongAnswer, match="no vector"):
        read_profile_export(export(tmp_path, [bare]))
    (tmp_path / "other.json").write_text('{"experiments": []}')
    with pytest.raises(MalformedResult, match="not a profile export"):
        read_profile_export(tmp_path / "other.json")


def test_a_point_is_either_closed_or_open_loop():
    closed_loop = load_arguments(LoadPoint(concurrency=8, warmup_requests=3))
    assert closed_loop == ["--concurrency-range", "8", "--warmup-request-count", "3"]
    open_loop = load_arguments(LoadPoint(request_rate_per_s=12.5))
    assert "--warmup-request-count" not in open_loop  # perf_analyzer 2.60 would never end
    assert open_loop[:4] == ["--request-rate-range", "12.5", "--request-distribution", "poisson"]
    for wrong in ({}, {"concurrency": 1, "request_rate_per_s": 1.0}):
        with pytest.raises(ValueError, match="one of the two"):
            LoadPoint(**wrong)


@pytest.mark.parametrize(
    ("words", "discarded"),
    [
        ("[WARNING] Perf Analyzer was not able to keep up with the desired", True),
        ("Failed to obtain stable measurement within 3 measurement windows", True),
        ("Concurrency: 4, throughput: 2.0 infer/sec, latency 26 usec", False),
    ],
)  # fmt: skip
def test_points_that_do_not_count(words, discarded):
    assert (judge(words) is not None) == discarded


def installed(tmp_path, version, says):
    folder = tmp_path / version
    (folder / f"perf_analyzer-{version}.dist-info").mkdir(parents=True)
    program = folder / "perf_analyzer"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return folder, [str(program)]


def test_the_placeholder_and_what_does_not_run_never_pass(tmp_path):
    install.check_version(*installed(tmp_path, install.VERSION, "Perf Analyzer Version 0.0.0 (c)"))
    with pytest.raises(ToolUnavailable, match=r"0\.1\.0.*not perf_analyzer 2\.60\.0"):
        install.check_version(*installed(tmp_path, "0.1.0", "Perf Analyzer Version 0.1.0"))
    folder, _ = installed(tmp_path / "second", install.VERSION, "")
    broken = folder / "broken"
    broken.write_text("#!/bin/sh\necho 'GLIBC_2.38 not found' >&2; exit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ToolUnavailable, match=r"GLIBC_2\.38 not found"):
        install.check_version(folder, [str(broken)])


def test_without_network_the_error_says_what_is_missing(tmp_path, monkeypatch):
    if not debian_runtime._KEYRING.exists():
        pytest.skip("no Debian keyring")
    monkeypatch.setattr(debian_runtime, "_MIRROR", "http://127.0.0.1:9/debian")
    with pytest.raises(ToolUnavailable, match=r"(?s)is this machine online.*apt-get said"):
        debian_runtime.install_debian_runtime(tmp_path, lambda words: None)
    assert not list(tmp_path.glob("debian-trixie-runtime"))  # half an installation is none


def test_without_apt_the_error_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_runtime.shutil, "which", lambda name: None)
    with pytest.raises(ToolUnavailable, match=r"apt-get and dpkg-deb .* Ubuntu 24\.04"):
        debian_runtime.install_debian_runtime(tmp_path, lambda words: None)
