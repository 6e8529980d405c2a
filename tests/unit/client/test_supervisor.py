"""The supervisor's decisions, with a server and a probe that do as they are told."""

import pytest

from lasttoken import InvalidInput, ServerStopped
from lasttoken.local import SupervisionOptions, Supervisor


class Server:
    """Ends, or goes on, as the script says; one word a wait."""

    grpc_url = "127.0.0.1:1"

    def __init__(self, script, used=(), *, computes_on_cpu=True):
        self.script = list(script)
        self.used = list(used)
        self.computes_on_cpu = computes_on_cpu
        self.restarts = []
        self.supervisor = None

    def models(self):
        return ("m",)

    def wait(self, timeout_s):
        word = self.script.pop(0)
        if word == "ended":
            raise ServerStopped("tritonserver ended with exit code -9; from its log:\n...")
        if word == "stop":
            self.supervisor.stop()

    def processor_s(self):
        return self.used.pop(0) if self.used else 0.0

    def restart(self, *, stop_timeout_s):
        self.restarts.append(stop_timeout_s)


def watch(script, answers=(), clock=None, used=(), *, computes_on_cpu=True, **options):
    server = Server(script, used, computes_on_cpu=computes_on_cpu)
    answers, said = list(answers), []
    times = iter(clock or range(10_000))
    supervisor = Supervisor(
        server,
        SupervisionOptions(interval_s=0.01, **options),
        probe=lambda url, model, timeout_s: answers.pop(0) if answers else None,
        announce=said.append,
        clock=lambda: next(times),
    )
    server.supervisor = supervisor
    supervisor.run()
    return server, said


def test_a_server_that_answers_is_left_alone():
    server, said = watch(["on", "on", "on", "stop"])
    assert server.restarts == []
    assert said == []


def test_one_failure_is_forgiven_two_in_a_row_are_not():
    server, _ = watch(["on", "on", "on", "stop"], ["stub died", None, "stub died"])
    assert server.restarts == []
    server, said = watch(["on", "on", "on", "stop"], ["stub died", "stub died"])
    assert len(server.restarts) == 1
    assert "m: stub died; starting the server anew" in said[0]


SILENT = "no answer: deadline exceeded"


def test_a_server_that_computes_may_be_silent():
    # A processor time before and behind each probe of 10 s: ten cores, and a tenth of one.
    used = [0.0, 100.0, 100.0, 101.0, 101.0, 102.0]
    server, said = watch(["on", "on", "on", "on", "stop"], [SILENT] * 3, used=used)
    assert server.restarts == []
    assert len(said) == 1
    assert "m: no answer: deadline exceeded; it computes, so it is left alone" in said[0]


@pytest.mark.parametrize(
    ("used", "computes_on_cpu"),
    [([0.0, 0.9, 0.9, 1.8], True), ([0.0, 100.0, 100.0, 200.0], False)],
    ids=["idle", "gpu"],
)
def test_a_silent_server_that_does_not_compute_is_started_anew(used, computes_on_cpu):
    server, said = watch(
        ["on", "on", "stop"], [SILENT] * 2, used=used, computes_on_cpu=computes_on_cpu
    )
    assert len(server.restarts) == 1
    assert "starting the server anew" in said[0]


def test_it_may_not_be_silent_for_ever():
    used = [float(second) for second in range(0, 1_000, 50)]
    clock = iter(range(0, 100_000, 100))  # seconds between two silent probes
    server, said = watch(["on"] * 5 + ["stop"], [SILENT] * 5, clock, used, busy_timeout_s=300)
    assert len(server.restarts) == 1
    assert "starting the server anew" in said[1]
    server, _ = watch(
        ["on"] * 5 + ["stop"], [SILENT, SILENT, None, SILENT, SILENT],
        iter(range(0, 100_000, 100)), used, busy_timeout_s=300,
    )  # fmt: skip
    assert server.restarts == []


def test_one_that_computes_and_fails_is_started_anew():
    used = [0.0, 100.0, 100.0, 200.0]
    server, _ = watch(["on", "on", "stop"], ["stub died"] * 2, used=used)
    assert len(server.restarts) == 1


def test_a_server_that_ended_is_started_at_once():
    server, said = watch(["ended", "stop"])
    assert len(server.restarts) == 1
    assert "exit code -9" in said[0]


def test_it_gives_up_on_a_server_that_keeps_ending():
    with pytest.raises(ServerStopped, match="3 times within 600 s"):
        watch(["ended"] * 10, max_restarts=3)


def test_old_restarts_are_forgotten():
    clock = range(0, 100_000, 400)  # three readings a restart: each 1,200 s after the last
    server, _ = watch(["ended"] * 10 + ["stop"], clock=clock, max_restarts=2)
    assert len(server.restarts) == 10


@pytest.mark.parametrize(
    "name", ["interval_s", "timeout_s", "failures", "busy_timeout_s", "max_restarts"]
)
def test_options_must_be_positive(name):
    with pytest.raises(InvalidInput, match=name):
        SupervisionOptions(**{name: 0})
