"""A real Triton whose processes are killed, watched by a real supervisor."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lasttoken import EmbeddingClient, LasttokenError, RetryPolicy
from lasttoken.local import LocalTriton, SupervisionOptions, Supervisor
from lasttoken.local.supervisor import probe_model
from server.toy_repository import MODEL, toy_vector, write_toy_repository

pytestmark = pytest.mark.server


@pytest.fixture
def watched(tmp_path, cache_folder):
    """A server and what its supervisor said."""
    repository = write_toy_repository(tmp_path / "repository")
    said = []
    with LocalTriton(repository, cache_folder=cache_folder) as server:
        options = SupervisionOptions(interval_s=0.2, timeout_s=3)
        supervisor = Supervisor(server, options, announce=said.append)
        thread = threading.Thread(target=supervisor.run, daemon=True)
        thread.start()
        yield server, said, supervisor
        supervisor.stop()
        thread.join(30)
        assert not thread.is_alive()


def stubs(server_pid):
    """Process ids of the Python models of a server, by the name of their model."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            group = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[2])
        except OSError:
            continue
        if group == server_pid and b"triton_python_backend_stub" in words[0]:
            found[words[1].decode().split("/")[-3]] = int(folder.name)
    return found


def embeds_again(server, vector):
    """Whether the server gives this vector within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with EmbeddingClient(server.grpc_url, MODEL, retry=RetryPolicy(max_attempts=1)) as c:
                return np.array_equal(c.embed("a text", timeout_s=2), vector)
        except LasttokenError:
            time.sleep(0.2)
    return False


@pytest.mark.parametrize("victim", ["stub", "server"])
def test_a_killed_process_is_noticed_and_the_server_answers_again(watched, victim):
    server, said, supervisor = watched
    address, process = server.grpc_url, server.pid
    if victim == "stub":
        [pid, *_] = stubs(process).values()
        os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while supervisor.restarts == 0:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    assert embeds_again(server, toy_vector("a text"))
    assert server.grpc_url == address
    assert server.pid != process
    assert "starting the server anew" in said[0]


def test_the_probe_tells_a_live_model_from_none(watched):
    server, _, _ = watched
    assert probe_model(server.grpc_url, MODEL, 5) is None
    assert "nonesuch" in probe_model(server.grpc_url, "nonesuch", 5)
    assert probe_model("127.0.0.1:1", MODEL, 2) is not None


def ask_in_background(server, text, answers):
    def ask():
        try:
            with EmbeddingClient(server.grpc_url, MODEL, retry=RetryPolicy(max_attempts=1)) as c:
                answers.append(c.embed(text, timeout_s=60))
        except LasttokenError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_server_that_computes_for_longer_than_probes_wait_loses_nothing(watched):
    server, said, supervisor = watched
    answers = []
    ask_in_background(server, "COMPUTE 10", answers).join(60)
    assert np.array_equal(answers[0], toy_vector("COMPUTE 10"))
    assert supervisor.restarts == 0
    assert len(said) == 1
    assert "it computes, so it is left alone" in said[0]


def test_a_server_that_is_blocked_is_started_anew(watched):
    server, said, supervisor = watched
    answers = []
    thread = ask_in_background(server, "BLOCK 40", answers)
    deadline = time.monotonic() + 35
    while supervisor.restarts == 0:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    thread.join(60)
    assert isinstance(answers[0], LasttokenError)
    assert embeds_again(server, toy_vector("a text"))
