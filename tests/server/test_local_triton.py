"""LocalTriton with a real Triton: start, readiness, failure, stop, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from lasttoken import (
    EmbeddingClient,
    LasttokenError,
    RepositoryInvalid,
    RetryPolicy,
    ServerError,
    ServerStartFailed,
    ServerStopped,
)
from lasttoken.local import LocalTriton
from lasttoken.local import server as local_server
from lasttoken_perf.served import read_metrics
from server.toy_repository import MODEL, toy_vector, write_toy_repository

pytestmark = pytest.mark.server

SERVE = [sys.executable, "-m", "lasttoken.cli", "serve"]
SERVE += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


@pytest.fixture
def repository(tmp_path) -> Path:
    return write_toy_repository(tmp_path / "repository")


def group_members(group: int) -> list[int]:
    """Processes of a group that are not zombies, read from /proc."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


def tokenized(metrics_url: str) -> float:
    """Requests that are behind the tokenizer, so that the encoder has them."""
    label = f'model="{MODEL}_tokenizer"'
    return read_metrics(metrics_url, label).get("nv_inference_request_success", 0.0)


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def shared_memory_of(process_id: int, but: Collection[Path] = ()) -> list[Path]:
    found = Path("/dev/shm").glob(f"lasttoken_{process_id}_*")  # noqa: S108
    return [path for path in found if path not in but]


@pytest.fixture(autouse=True)
def others() -> frozenset[Path]:
    """Shared memory of servers that other tests of this process keep running."""
    return frozenset(shared_memory_of(os.getpid()))


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # as the kernel writes it


def listening_addresses(port: int) -> set[str]:
    """Local addresses, as hexadecimal of the kernel's, that listen on a port."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows += Path("/proc/net/tcp6").read_text().splitlines()[1:]
    listening = [row.split()[1] for row in rows if row.split()[3] == "0A"]
    return {place.split(":")[0] for place in listening if int(place.split(":")[1], 16) == port}


def test_from_start_to_stop_nothing_is_left(repository, others):
    with LocalTriton(repository) as server:
        pid, log_path = server.pid, server.log_path
        places = [server.grpc_url, server.http_url]
        assert server.models() == (MODEL,)
        assert len(group_members(pid)) == 3  # tritonserver and two stubs
        assert shared_memory_of(os.getpid(), others)
        with EmbeddingClient(server.grpc_url, MODEL) as client:
            assert np.array_equal(client.embed("text"), toy_vector("text"))
        assert server.metrics_url is not None
        with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:  # noqa: S310
            assert b"nv_inference_request_success" in answer.read()
        for place in places:
            port = int(place.rsplit(":", 1)[1])
            assert listening_addresses(port) <= LOOPBACK
        assert "Started GRPCInferenceService" in server.log()
    assert wait_until(lambda: not group_members(pid), 5.0)  # SIGKILL takes a moment
    assert not shared_memory_of(os.getpid(), others)
    assert not log_path.exists()
    for place in places:
        assert not listening_addresses(int(place.rsplit(":", 1)[1]))
    with pytest.raises(ServerStopped):
        _ = server.pid


def test_the_models_run_in_the_servers_own_environment(repository):
    with (
        LocalTriton(repository) as server,
        EmbeddingClient(server.grpc_url, MODEL) as client,
        pytest.raises(ServerError) as caught,
    ):
        client.embed("TELL", priority="bulk", timeout_s=9.0)
    text = str(caught.value)
    told = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert int(told["numpy"].split(".")[0]) < 2
    assert told["prefix"] not in (sys.prefix, sys.base_prefix)
    assert told["parameters"] == {"service_class": "bulk"}
    assert 1e6 < told["timeout"] <= 9e6  # microseconds


def test_a_model_that_cannot_load_is_told_with_the_log(repository, others):
    model = repository / f"{MODEL}_encoder" / "1" / "model.py"
    model.write_text("raise RuntimeError('the engine is missing a cylinder')\n")
    server = LocalTriton(repository)
    with pytest.raises(ServerStartFailed, match="missing a cylinder"):
        server.start()
    assert not shared_memory_of(os.getpid(), others)
    with pytest.raises(ServerStopped):
        _ = server.pid


def test_ready_means_that_an_inference_went_through(repository):
    model = repository / f"{MODEL}_encoder" / "1" / "model.py"
    broken = 'raise RuntimeError("loads, and cannot compute")'
    source = model.read_text()
    where = "        for request in requests:\n            sender"
    assert where in source
    model.write_text(source.replace(where, f"        {broken}\n{where}"))
    with pytest.raises(ServerStartFailed, match=r"first inference.*loads, and cannot compute"):
        LocalTriton(repository).start()


def test_a_server_that_is_too_slow_to_load_is_given_up(repository, others):
    model = repository / f"{MODEL}_encoder" / "1" / "model.py"
    model.write_text("import time\ntime.sleep(60)\n" + model.read_text())
    server = LocalTriton(repository, ready_timeout_s=1.5, stop_timeout_s=1.0)
    begin = time.monotonic()
    with pytest.raises(ServerStartFailed, match=r"not ready after 1\.5 s"):
        server.start()
    assert time.monotonic() - begin < 12.0
    assert not shared_memory_of(os.getpid(), others)


def test_a_fixed_port_that_is_taken_is_an_error_and_a_free_one_is_chosen_again(
    repository, monkeypatch
):
    given = []
    real = local_server.free_ports
    with LocalTriton(repository) as first:
        taken = int(first.grpc_url.rsplit(":", 1)[1])
        with pytest.raises(ServerStartFailed, match="already in use"):
            LocalTriton(repository, grpc_port=taken, http_port=None, metrics_port=None).start()

        def ports_with_one_taken(host: str, count: int) -> list[int]:
            ports = real(host, count)
            if not given:
                ports[0] = taken
            given.append(ports)
            return ports

        monkeypatch.setattr(local_server, "free_ports", ports_with_one_taken)
        with LocalTriton(repository) as second:
            assert second.grpc_url != first.grpc_url
    assert len(given) == 2


def test_work_in_flight_is_answered_at_stop(repository):
    answers = []
    with LocalTriton(repository) as server:
        client = EmbeddingClient(server.grpc_url, MODEL)
        thread = threading.Thread(target=lambda: answers.append(client.embed("SLEEP 1.0 s")))
        before = tokenized(server.metrics_url)
        thread.start()
        assert wait_until(lambda: tokenized(server.metrics_url) > before)
    thread.join(30)
    client.close()
    assert np.array_equal(answers[0], toy_vector("SLEEP 1.0 s"))


def test_a_dead_model_process_is_an_error_and_stop_still_cleans_up(repository, others):
    with LocalTriton(repository, stop_timeout_s=2.0) as server:
        pid = server.pid
        with EmbeddingClient(server.grpc_url, MODEL) as client:
            with pytest.raises(LasttokenError):
                client.embed("DIE", timeout_s=5.0)
            with pytest.raises(ServerError, match="not healthy"):
                client.embed("after", timeout_s=5.0)
    assert wait_until(lambda: not group_members(pid), 5.0)  # SIGKILL takes a moment
    assert not shared_memory_of(os.getpid(), others)


def test_a_server_that_is_killed_is_told_and_cleaned_up(repository, others):
    with LocalTriton(repository) as server:
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ServerStopped, match=r"exit code -9(.|\n)*Started"):
            server.wait(20.0)
    assert wait_until(lambda: not group_members(pid), 5.0)  # SIGKILL takes a moment
    assert not shared_memory_of(os.getpid(), others)


def start_serve(repository: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict]:
    process = subprocess.Popen(
        [*SERVE, str(repository), "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    return process, json.loads(line)


def close(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def test_the_server_ends_when_its_parent_is_killed(repository):
    process, places = start_serve(repository)
    try:
        assert len(group_members(places["pid"])) == 3
        process.kill()
        process.wait()
        assert wait_until(lambda: not group_members(places["pid"]))
        assert wait_until(lambda: not shared_memory_of(process.pid))
    finally:
        close(process)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_serve_stops_cleanly(repository, tmp_path, number, code):
    process, places = start_serve(repository, "--log", str(tmp_path / "log"))
    try:
        assert places["models"] == [MODEL]
        done = subprocess.run(
            [sys.executable, "-m", "lasttoken.cli", "embed", "--url", places["grpc"], "a text"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert np.array_equal(np.array(done.stdout.split(), np.float32), toy_vector("a text"))
        listed = subprocess.run(
            [sys.executable, "-m", "lasttoken.cli", "models", "--url", places["grpc"], "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(listed.stdout)["name"] == MODEL
        process.send_signal(number)
        assert process.wait(30) == code
        assert not group_members(places["pid"])
        assert not shared_memory_of(process.pid)
        assert "Started GRPCInferenceService" in (tmp_path / "log").read_text()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    finally:
        close(process)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_serve_at_once_and_leaves_no_server(repository, number, code):
    process, places = start_serve(repository, "--probe-interval", "0")
    failed = []

    def work() -> None:
        with EmbeddingClient(places["grpc"], MODEL, retry=RetryPolicy(max_attempts=1)) as client:
            try:
                client.embed("SLEEP 20 s")
            except LasttokenError as error:
                failed.append(error)

    thread = threading.Thread(target=work)
    try:
        before = tokenized(places["metrics"])
        thread.start()
        assert wait_until(lambda: tokenized(places["metrics"]) > before)
        process.send_signal(number)
        assert process.stderr is not None
        while "requests in flight have 30 s to finish" not in (said := process.stderr.readline()):
            assert said, "it has ended"
        time.sleep(0.3)
        assert process.poll() is None  # it waits for the work
        assert group_members(places["pid"])
        process.send_signal(number)
        assert process.wait(15) == code
        assert not group_members(places["pid"])
        assert not shared_memory_of(process.pid)
        assert not listening_addresses(int(places["grpc"].rsplit(":", 1)[1]))
        said = process.stderr.read()
        assert "ending the server at once" in said
        assert "Traceback" not in said
    finally:
        close(process)
        thread.join(30)
    assert failed


def test_serve_shows_the_log_when_it_fails(repository):
    shutil.rmtree(repository / f"{MODEL}_encoder")
    done = subprocess.run(
        [*SERVE, str(repository)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{MODEL}_encoder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_as_exported_is_not_loaded(smollm2_repository, tmp_path):
    repository = tmp_path / "repository"
    shutil.copytree(smollm2_repository, repository)
    weights = next(repository.glob("*_encoder/1/encoder.onnx.data"))
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(RepositoryInvalid, match=r"encoder\.onnx\.data: sha256 is"):
        LocalTriton(repository).start()
