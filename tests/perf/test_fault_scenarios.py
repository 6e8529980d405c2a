"""The faults' alerts and runbooks, and callers behind one address of several gateways."""

import json
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from lasttoken_perf import cli
from lasttoken_perf.commands import faults
from lasttoken_perf.commands.faults import _about, _table
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.faults import server_faults
from lasttoken_perf.faults.http_callers import PROBE_S, OpenAICaller, says_ready
from lasttoken_perf.faults.load import RIGHT, WRONG, Load, Outcome
from lasttoken_perf.faults.scenarios import SCENARIOS, Scenario
from lasttoken_perf.faults.stage import Finding, finding_of
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.results import read_result

ROOT = Path(__file__).parents[2]
VECTOR = np.array([0.6, 0.8], "<f4")


def test_every_alert_that_a_fault_names_exists_and_has_a_runbook():
    rules = yaml.safe_load((ROOT / "docker/helm/lasttoken/files/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    runbooks = set(re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.M))
    named = {alert for scenario in SCENARIOS.values() for alert in scenario.alerts}
    assert len(named) >= 3
    assert named <= alerts
    assert alerts <= runbooks


def outcome(started_s, ended_s, result=RIGHT):
    return Outcome(started_s=started_s, ended_s=ended_s, result=result)


def load_of(*outcomes):
    load = Load(lambda: None, {})
    load.outcomes += outcomes
    return load


def test_a_finding_says_what_was_seen_what_is_lost_and_when_service_was_back():
    load = load_of(
        outcome(0, 1), outcome(1, 2.5, "ModelUnavailable"), outcome(2, 5, "ModelUnavailable"),
        outcome(1.5, 4), outcome(4, 7.5),
    )  # fmt: skip
    finding = finding_of("a fault", load, harmed_s=2.0, seen="and more")
    assert finding.seen == "2 ModelUnavailable; tried again by the caller; and more"
    assert finding.lost == "2 requests, told so"
    assert finding.impact.recovery_s == pytest.approx(5.5)  # what was sent before proves nothing
    assert finding_of("a fault", load_of(outcome(0, 1)), harmed_s=0).lost == "nothing"
    table = "\n".join([*_table({"encoder": finding}), *_about("m", MACHINE)])
    assert "| 5 | 3 | 0 |" in table
    assert "[LasttokenInferencesFail](../runbooks.md#lasttokeninferencesfail)" in table
    assert "2 cores of a processor" in table
    with pytest.raises(WrongAnswer, match="1 answers were not"):
        finding_of("a fault", load_of(outcome(0, 1), outcome(0, 1, WRONG)), harmed_s=0)
    with pytest.raises(ValueError, match="after the harm"):
        finding_of("a fault", load_of(outcome(0, 1)), harmed_s=2)


MACHINE = {"cores": 2, "processor": "a processor", "widest_vectors": "avx2",
           "memory_bytes": 2**34, "gpus": []}  # fmt: skip


class FakeGateway:
    """Answers every embedding with one vector; ready, or failing, as it is told."""

    def __init__(self):
        self.ready, self.failures, self.requests, self.probes = True, 0, 0, 0
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                gateway.probes += 1
                self.reply(200 if gateway.ready else 503, {})

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                gateway.requests += 1
                if gateway.failures:
                    gateway.failures -= 1
                    self.reply(503, {"error": {"message": "stopping"}})
                    return
                item = {"object": "embedding", "index": 0, "embedding": encoded}
                self.reply(200, {"object": "list", "data": [item], "model": "m",
                                 "usage": {"prompt_tokens": 1, "total_tokens": 1}})  # fmt: skip

            def reply(self, status, answer):
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        import base64

        encoded = base64.b64encode(VECTOR.tobytes()).decode()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def gateways():
    both = [FakeGateway(), FakeGateway()]
    yield both
    for gateway in both:
        gateway.server.shutdown()
        gateway.server.server_close()


def test_requests_go_in_turn_to_the_gateways_that_are_ready(gateways):
    first, second = gateways
    caller = OpenAICaller([first.url, second.url], "m", retries=0)
    for _ in range(4):
        np.testing.assert_array_equal(caller.embed("x", timeout_s=5), VECTOR)
    assert (first.requests, second.requests) == (2, 2)
    first.ready = False
    assert not says_ready(first.url)
    assert says_ready(second.url)
    enough, end = second.probes + 3, time.monotonic() + 30
    while second.probes < enough:  # a whole round, of which the next one's begin is the end
        assert time.monotonic() < end
        time.sleep(PROBE_S / 4)
    for _ in range(4):
        caller.embed("x", timeout_s=5)
    assert (first.requests, second.requests) == (2, 6)
    caller.close()


def test_without_retries_a_failure_is_an_error_and_with_them_the_next_gateway_is_asked(gateways):
    import openai

    first, second = gateways
    urls = [first.url, second.url]
    first.failures = 1
    caller = OpenAICaller(urls, "m", retries=0)
    with pytest.raises(openai.InternalServerError):
        caller.embed("x", timeout_s=5)
    caller.close()
    first.failures = 1
    caller = OpenAICaller(urls, "m")
    np.testing.assert_array_equal(caller.embed("x", timeout_s=5), VECTOR)
    caller.close()
    assert second.requests == 1


def test_a_fault_that_ends_badly_does_not_keep_the_others_from_being_tried(
    monkeypatch, tmp_path, capsys
):
    def fails(stage):
        raise WrongAnswer("an answer was wrong")

    def fine(stage):
        return Finding(fault="fine", seen="nothing", lost="nothing", impact=None)

    scenarios = {"bad": Scenario(run=fails), "good": Scenario(run=fine)}
    monkeypatch.setattr(faults, "SCENARIOS", scenarios)
    monkeypatch.setattr(faults, "_prepared", lambda model, folder: None)
    table, result = tmp_path / "faults.md", tmp_path / "faults.json"
    assert cli.main(["faults", "--table", str(table), "--output", str(result)]) == 1
    assert "did not end as they should: bad" in capsys.readouterr().err
    assert "FAILED: an answer was wrong" in table.read_text()
    assert [f["name"] for f in read_result(result)["findings"]] == ["bad", "good"]


def test_an_interruption_keeps_the_findings_and_no_half_a_table(monkeypatch, tmp_path, capsys):
    def interrupted(stage):
        raise Interrupted(signal.SIGTERM)

    finding = Finding(fault="fine", seen="nothing", lost="nothing", impact=None)
    scenarios = {"good": Scenario(run=lambda _: finding), "long": Scenario(run=interrupted)}
    monkeypatch.setattr(faults, "SCENARIOS", scenarios)
    monkeypatch.setattr(faults, "_prepared", lambda model, folder: None)
    table, result = tmp_path / "faults.md", tmp_path / "faults.json"
    table.write_text("the whole table of an earlier run")
    assert cli.main(["faults", "--table", str(table), "--output", str(result)]) == 143
    assert f"what was finished before it is in {result}" in capsys.readouterr().err
    found = read_result(result)
    assert (found["kind"], found["interrupted"]) == ("faults", "SIGTERM after good")
    assert [f["name"] for f in found["findings"]] == ["good"]
    assert table.read_text() == "the whole table of an earlier run"


def test_without_a_memory_cgroup_the_fault_is_not_tried_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(server_faults, "_CGROUPS", tmp_path / "missing")
    finding = server_faults.out_of_memory(None)
    assert finding.seen.startswith("not tried: no memory cgroup can be made here")
    assert finding.impact is None
