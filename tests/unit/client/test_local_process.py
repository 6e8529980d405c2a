"""Server processes, ports and repositories; no Triton runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lasttoken import (
    InvalidInput,
    RepositoryInvalid,
    ServerStartFailed,
    ServerStopped,
)
from lasttoken.local import LocalTriton
from lasttoken.local import server as local_server
from lasttoken.local.ports import address, free_ports
from lasttoken.local.process import ServerProcess
from lasttoken.local.program import ServerProgram
from lasttoken.local.repository import RepositoryModel, check_backends, read_repository
from lasttoken.local.server_log import explain

ROOT = Path(__file__).parents[3]


def test_free_ports_are_different_and_free():
    ports = free_ports("127.0.0.1", 20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_named_port_that_is_taken_is_found_out_before_the_server_starts(server_of, tmp_path):
    server_of(SLEEPS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = LocalTriton(tmp_path, http_port=port, log_path=tmp_path / "log")
        with pytest.raises(ServerStartFailed) as error:
            server.start()
        assert str(error.value) == (
            f"http_port (--http-port) is {port}, which cannot be bound on 127.0.0.1: Address "
            "already in use; choose another, or 0 for a free one"
        )
        assert not (tmp_path / "log").exists()
        with socket.create_connection(("127.0.0.1", port)):
            connection, _ = taken.accept()
            connection.close()  # our side is closed first, and lingers in TIME_WAIT
    with server:
        assert server.http_url == f"127.0.0.1:{port}"


def test_two_services_do_not_share_a_port(tmp_path):
    with pytest.raises(InvalidInput, match=r"grpc_port and http_port are both 8000; choose"):
        LocalTriton(tmp_path, grpc_port=8000, http_port=8000)
    LocalTriton(tmp_path, grpc_port=0, http_port=0, metrics_port=None)


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("127.0.0.1", "127.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("0.0.0.0", "127.0.0.1:80"),  # noqa: S104
        ("::", "[::1]:80"),
    ],
)
def test_addresses_can_be_called(host, written):
    assert address(host, 80) == written


def test_ensembles_are_told_from_their_steps(tmp_path):
    from server.toy_repository import write_toy_repository

    models = read_repository(write_toy_repository(tmp_path))
    assert [(m.name, m.is_ensemble) for m in models] == [
        ("toy_embedder", True),
        ("toy_embedder_encoder", False),
        ("toy_embedder_tokenizer", False),
    ]
    assert models[0].inputs == ("TEXT", "PROMPT_NAME", "INSTRUCTION")


def test_what_is_no_repository_is_refused(tmp_path):
    with pytest.raises(RepositoryInvalid, match="no model repository folder"):
        read_repository(tmp_path / "missing")
    with pytest.raises(RepositoryInvalid, match="holds no model"):
        read_repository(tmp_path)
    (tmp_path / "model").mkdir()
    config = tmp_path / "model" / "config.pbtxt"
    config.write_text('name: "model" backend: [')
    with pytest.raises(RepositoryInvalid, match=r"cannot read .*config\.pbtxt"):
        read_repository(tmp_path)
    config.write_text('name: "other"')
    with pytest.raises(RepositoryInvalid, match="'other'"):
        read_repository(tmp_path)


def test_a_model_for_a_backend_that_is_not_there_is_told_apart(tmp_path):
    folder = tmp_path / "native_encoder"
    folder.mkdir()
    (folder / "config.pbtxt").write_text('name: "native_encoder" backend: "onnxruntime"')
    models = read_repository(tmp_path)
    check_backends(models, {"python", "onnxruntime"})
    with pytest.raises(RepositoryInvalid, match=r"'native_encoder' is for .*'onnxruntime'.*python"):
        check_backends(models, {"python"})


def test_a_server_is_not_started_without_a_backend_that_it_needs(tmp_path, monkeypatch):
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "config.pbtxt").write_text('name: "native" backend: "onnxruntime"')
    program = replace(program_that(tmp_path, "time.sleep(60)"), backends=frozenset({"python"}))
    monkeypatch.setattr(local_server, "find_program", lambda *_: program)
    with pytest.raises(RepositoryInvalid, match="without --encoder native"):
        LocalTriton(tmp_path, verify=False, cache_folder=tmp_path / "cache").start()


def start(tmp_path: Path, program: str, **changes: object) -> ServerProcess:
    settings = {
        "environment": dict(os.environ),
        "library_path": "",
        "log_path": tmp_path / "log",
        **changes,
    }
    return ServerProcess([sys.executable, "-c", program], **settings)


def program_that(folder: Path, does: str) -> ServerProgram:
    """A program in place of tritonserver."""
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\nimport signal, time\n{does}\n")
    path.chmod(0o755)
    return ServerProgram(
        path=str(path), arguments=(), environment=dict(os.environ), library_path=""
    )


@pytest.fixture
def server_of(tmp_path, monkeypatch):
    """Makes a server that runs another program, which says when it is up."""

    def make(does: str) -> LocalTriton:
        program = program_that(tmp_path, does)
        monkeypatch.setattr(local_server, "find_program", lambda *_: program)
        monkeypatch.setattr(local_server, "read_repository", lambda _: ())
        monkeypatch.setattr(local_server, "wait_until_ready", _wait_until_up)
        return LocalTriton(tmp_path)

    return make


SLEEPS = "print('up', flush=True)\ntime.sleep(60)"
ASKED = (
    "def asked(*_):\n    print('asked', flush=True)\n"
    "signal.signal(signal.SIGTERM, asked)\n"
    "print('up', flush=True)\n"
    "while True:\n    time.sleep(60)\n"
)
"""A program that SIGTERM does not end."""


def _wait_until_up(process: ServerProcess, *_: object, **__: object) -> None:
    wait_for_log(process, "up")


def when_asked(process: ServerProcess, do: Callable[[], None]) -> threading.Thread:
    """Do something as soon as the program has been asked to end."""

    def wait() -> None:
        wait_for_log(process, "asked")
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def interrupted(stop: Callable[[], None], interrupter: threading.Thread) -> None:
    """Stop; a signal that comes late must not strike outside the test either."""
    stop()
    interrupter.join()


def interrupt_us() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def wait_for_log(process: ServerProcess, words: str) -> None:
    end = time.monotonic() + 30
    while words not in process.log():
        assert time.monotonic() < end, process.log()
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_a_process_is_asked_to_end_first(tmp_path):
    process = start(
        tmp_path,
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), sys.exit(0)))\n"
        "print('up', flush=True)\n"
        "time.sleep(60)",
    )
    wait_for_log(process, "up")
    assert process.exit_code is None
    process.stop(10.0)
    assert process.exit_code == 0
    assert process.log().splitlines() == ["up", "asked"]
    process.stop(1.0)  # again, without harm


def test_a_process_that_does_not_listen_is_killed_with_its_children_and_nobody_else(tmp_path):
    bystander = subprocess.Popen(["sleep", "60"])
    process = start(
        tmp_path,
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(60)",
    )
    try:
        wait_for_log(process, "child")
        child = int(process.log().split()[1])
        assert alive(child)
        begin = time.monotonic()
        process.stop(0.3)
        assert time.monotonic() - begin < 5.0
        assert process.exit_code == -signal.SIGKILL
        assert wait_until_gone(child)
        assert bystander.poll() is None
    finally:
        bystander.terminate()
        bystander.wait()


def test_a_wait_is_short_again_and_again(tmp_path, monkeypatch):
    """A signal that comes just before a wait begins does not end it: Python sees it after it."""
    process = start(tmp_path, "import time; time.sleep(60)")
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return len(waits) % 4 == 0

    with monkeypatch.context() as patched:
        patched.setattr(process._ended, "wait", wait)
        assert process.wait()
        assert process.wait(30.0)
    assert all(seconds is not None and 0 <= seconds <= 1 for seconds in waits)
    assert process.wait(0.05) is False
    process.stop(10.0)
    assert process.wait(0.0)


def test_a_second_ctrl_c_kills_the_process_and_its_children(tmp_path):
    process = start(
        tmp_path,
        "import signal, subprocess, time\n"
        "print('child', subprocess.Popen(['sleep', '60']).pid, flush=True)\n" + ASKED,
    )
    wait_for_log(process, "up")
    child = int(process.log().split()[1])
    interrupter = when_asked(process, interrupt_us)
    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda: process.stop(30.0), interrupter)
    assert process.exit_code == -signal.SIGKILL
    assert not alive(child)


def test_ctrl_c_while_a_server_begins_leaves_none(server_of, monkeypatch):
    begun = []
    real = subprocess.Popen

    def slow(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # the main thread waits for this one
        begun.append(real(*arguments, **options))
        return begun[0]

    monkeypatch.setattr(subprocess, "Popen", slow)
    server = server_of(SLEEPS)
    with pytest.raises(KeyboardInterrupt):
        server.start()
    assert not alive(begun[0].pid)


def test_a_server_whose_stopping_is_interrupted_is_gone_with_its_shared_memory(server_of):
    server = server_of(ASKED)
    memory = Path("/dev/shm") / f"{server._server_id}_1"  # noqa: S108
    server.start()
    pid = server.pid
    memory.write_bytes(b"x")
    interrupter = when_asked(server._process, interrupt_us)
    with pytest.raises(KeyboardInterrupt):
        interrupted(server.stop, interrupter)
    assert not alive(pid)
    assert not memory.exists()
    with pytest.raises(ServerStopped):
        _ = server.pid


def test_a_server_is_killed_while_its_stop_waits(server_of):
    server = server_of(ASKED)
    with server:
        pid = server.pid
        when_asked(server._process, server.kill)
    assert not alive(pid)
    server.kill()  # again, without harm


def test_children_left_behind_by_a_process_that_ended_are_killed(tmp_path):
    process = start(
        tmp_path,
        "import subprocess\nprint('child', subprocess.Popen(['sleep', '60']).pid, flush=True)",
    )
    assert process.wait(10.0)
    child = int(process.log().split()[1])
    assert alive(child)
    process.stop(1.0)
    assert wait_until_gone(child)


def test_a_process_outlives_the_thread_that_started_it(tmp_path):
    made = []
    thread = threading.Thread(
        target=lambda: made.append(
            start(tmp_path, "import time; print('up', flush=True); time.sleep(60)")
        )
    )
    thread.start()
    thread.join()
    (process,) = made
    wait_for_log(process, "up")
    time.sleep(0.3)
    assert process.exit_code is None
    process.stop(5.0)


def test_a_process_ends_when_its_parent_is_killed(tmp_path):
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from lasttoken.local.process import ServerProcess\n"
        "process = ServerProcess(['/bin/sleep', '60'], environment=dict(os.environ),\n"
        f"    library_path='', log_path=Path({str(tmp_path / 'log')!r}))\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    end = time.monotonic() + 10
    while Path(f"/proc/{child}/comm").read_text() != "sleep\n":  # past the launcher
        assert time.monotonic() < end
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone(child)


@pytest.mark.parametrize(
    ("own", "inherited", "wanted"),
    [("/triton", "/its/own", "/triton:/cuda:/cudnn"), ("", "/its/own", "/its/own:/cuda:/cudnn"),
     ("", "", "/cuda:/cudnn")],
)  # fmt: skip
def test_further_libraries_come_behind_the_programs_own(own, inherited, wanted):
    program = ServerProgram(
        path="", arguments=(), environment={"LD_LIBRARY_PATH": inherited}, library_path=own
    )
    assert program.library_path_with(["/cuda", "/cudnn"]) == wanted
    assert program.library_path_with([]) == own


def test_the_library_path_reaches_the_program_and_not_the_launcher(tmp_path):
    process = start(
        tmp_path,
        "import os; print(os.environ['LD_LIBRARY_PATH'], os.environ['OTHER'])",
        library_path="/first:/second",
        environment={**os.environ, "OTHER": "kept"},
    )
    assert process.wait(10.0)
    assert process.log() == "/first:/second kept"


def test_the_log_is_appended_to_and_read_from_this_process_on(tmp_path):
    (tmp_path / "log").write_text("from an earlier run\n")
    process = start(tmp_path, "[print(i) for i in range(100)]")
    assert process.wait(10.0)
    assert process.log().split() == [str(i) for i in range(100)]
    assert (tmp_path / "log").read_text().startswith("from an earlier run\n0\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grpc_port": -1}, "grpc_port is -1"),
        ({"http_port": 70000}, "http_port is 70000"),
        ({"host": "localhost"}, "host is 'localhost'"),
        ({"ready_timeout_s": 0}, "ready_timeout_s is 0"),
        ({"stop_timeout_s": float("nan")}, "stop_timeout_s is nan"),
        ({"stop_timeout_s": float("inf")}, "stop_timeout_s is inf"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, words):
    with pytest.raises(InvalidInput, match=words):
        LocalTriton(tmp_path, **options)


def test_what_is_written_beside_a_running_server_is_none_of_its_models(server_of, monkeypatch):
    """Else the supervisor would start it anew for not answering for a model it has not loaded."""
    server = server_of(SLEEPS)
    first = RepositoryModel(name="first", is_ensemble=True, inputs=("TEXT",))
    second = RepositoryModel(name="second", is_ensemble=True, inputs=("TEXT",), on_gpu=True)

    def being_exported(_):
        raise RepositoryInvalid("there is no model here at the moment")

    monkeypatch.setattr(local_server, "read_repository", lambda _: (first,))
    with server:
        for now_there in (lambda _: (first, second), being_exported):
            monkeypatch.setattr(local_server, "read_repository", now_there)
            assert (server.models(), server.computes_on_cpu) == (("first",), True)
        monkeypatch.setattr(local_server, "read_repository", lambda _: (first, second))
        server.restart()
        assert (server.models(), server.computes_on_cpu) == (("first", "second"), False)


def test_an_ensemble_of_somebody_elses_is_not_asked_for_vectors(tmp_path, monkeypatch):
    """The supervisor would take its refusal of a text for a server that has to be started anew."""
    ours = RepositoryModel(name="ours", is_ensemble=True, inputs=("TEXT", "PROMPT_NAME"))
    step = RepositoryModel(name="ours_tokenizer", is_ensemble=False, inputs=("TEXT",))
    images = RepositoryModel(name="images", is_ensemble=True, inputs=("IMAGE",))
    monkeypatch.setattr(local_server, "read_repository", lambda _: (images, ours, step))
    assert LocalTriton(tmp_path).models() == ("ours",)


def test_a_server_that_is_not_running_says_so(tmp_path):
    server = LocalTriton(tmp_path)
    for use in (lambda: server.pid, lambda: server.grpc_url, server.wait, server.log):
        with pytest.raises(ServerStopped, match="not running"):
            use()
    server.stop()


def test_a_tritonserver_on_the_path_is_used_with_its_own_environment(tmp_path, monkeypatch):
    from server.toy_repository import write_toy_repository

    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "tritonserver"
    program.write_text('#!/bin/sh\necho "args: $@"\necho "libraries: $LD_LIBRARY_PATH"\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/its/own")
    repository = write_toy_repository(tmp_path / "repository")
    server = LocalTriton(
        repository,
        cache_folder=tmp_path / "cache",
        grpc_port=12345,
        http_port=None,
        metrics_port=None,
        extra_args=["--log-verbose=1"],
    )
    with pytest.raises(ServerStartFailed) as caught:
        server.start()
    message = str(caught.value)
    assert "ended with exit code 7" in message
    assert "libraries: /its/own" in message
    for flag in (
        f"--model-repository={repository}",
        "--grpc-address=127.0.0.1",
        "--grpc-port=12345",
        "--allow-http=false",
        "--allow-metrics=false",
        "--model-control-mode=none",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--disable-auto-complete-config",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        "--log-verbose=1",
    ):
        assert flag in message.split()
    assert "--backend-directory" not in message
    assert not (tmp_path / "cache").exists()  # nothing was fetched


# What a failure tells


def test_errors_come_first_then_the_end_without_tables():
    noise = [f"I1123 08:00:00 1 server.cc:{i}] loading" for i in range(200)]
    log = [
        'E1123 08:00:00 1 server.cc:241] "CudaDriverHelper has not been initialized."',
        "E1123 08:00:00 1 model_lifecycle.cc:642] \"failed to load 'm'\"",
        *noise,
        "",
        "+------+",
        "| toy_embedder | 1 | UNAVAILABLE |",
        "error: creating server: Internal - failed to load all models",
    ]
    lines = explain("\n".join(log)).splitlines()
    assert "failed to load 'm'" in lines[0]
    assert lines[-1].startswith("error: creating server")
    assert len(lines) == 21
    assert not any("Cuda" in line or line[0] in "|+" for line in lines)
    assert explain("") == "(the log is empty)"
    assert len(explain("x" * 10_000)) == 1000
