"""Alert rules on recorded series, the dashboard, and a real Prometheus that scrapes a real run."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from docker.helm_program import default_cache
from docker.prometheus_programs import prometheus_program
from lasttoken import EmbeddingClient
from lasttoken.gateway.dialects import DIALECTS
from lasttoken.local.ports import free_ports

DOCKER = Path(__file__).parents[2] / "docker"
FILES = DOCKER / "helm" / "lasttoken" / "files"
DOCS = DOCKER.parent / "docs"
RULES = [
    rule
    for group in yaml.safe_load((FILES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]


def dashboard_queries():
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_alerts_fire_on_their_faults_and_only_then():
    promtool = prometheus_program(default_cache(), "promtool")
    test = DOCKER / "prometheus" / "alerts_test.yml"
    done = subprocess.run([promtool, "test", "rules", test], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_has_a_runbook():
    tested = (DOCKER / "prometheus" / "alerts_test.yml").read_text()
    headings = re.findall(r"^## (\w+)$", (DOCS / "runbooks.md").read_text(), re.MULTILINE)
    for rule in RULES:
        name = rule["alert"]
        assert re.search(rf"alertname: {name}\n\s+exp_alerts", tested), name
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        assert name in headings
    assert len(headings) == len(RULES)


def expression_of(alert):
    [rule] = [rule for rule in RULES if rule["alert"] == alert]
    return rule["expr"]


def test_the_gateways_alerts_watch_every_route_of_callers_and_no_other():
    [slow] = re.findall(r'route=~"(.*?)"', expression_of("LasttokenGatewaySlow"))
    embedding = {dialect.path for dialect in DIALECTS}
    assert set(slow.split("|")) == embedding
    left_out = set(re.findall(r'route!~"(.*?)"', expression_of("LasttokenGatewayErrors")))
    [asked_by_machines] = left_out  # the same above and below
    assert expression_of("LasttokenGatewayErrors").count("route!~") == 2
    assert set(asked_by_machines.split("|")) == {"/health", "/ready", "/metrics"}


def test_alerts_and_dashboard_name_documented_series():
    documented = (DOCS / "metrics.md").read_text()
    text = " ".join([rule["expr"] for rule in RULES] + dashboard_queries())
    names = set(re.findall(r"lasttoken_\w+", text))
    assert len(names) > 15
    for name in names:
        base = name.removesuffix("_bucket")
        assert f"`{base}" in documented, name


def test_compose_follows_the_specification():
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_starts_everything_once_unprivileged_and_on_loopback(profile):
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    chosen = {n: s for n, s in services.items() if profile in s["profiles"]}
    assert {n.partition("-")[0] for n in chosen} == {
        "exporter", "server", "gateway", "prometheus", "grafana", "volume",
    }  # fmt: skip
    assert len(chosen) == 6
    for name, service in chosen.items():
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for file in re.findall(r"\./[\w./-]+", json.dumps(service.get("volumes", []))):
            assert (DOCKER / file).exists(), (name, file)
        if "build" in service:
            assert (DOCKER / ".." / service["build"]["dockerfile"]).is_file()
        for other in service.get("depends_on", {}):
            assert other in chosen


@pytest.mark.server
def test_prometheus_scrapes_a_real_run(smollm2_server, tmp_path):
    prometheus = prometheus_program(default_cache(), "prometheus")
    [port] = free_ports("127.0.0.1", 1)
    target = urllib.parse.urlsplit(smollm2_server.metrics_url).netloc
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FILES / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "lasttoken-server", "static_configs": [{"targets": [target]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip

    def ask(path, **arguments):
        url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(query):
        try:
            return [float(s["value"][1]) for s in ask("query", query=query)["result"]]
        except OSError:
            return []

    def wait_for(query):
        deadline = time.monotonic() + 60
        while not (found := value(query)):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.3)
        return found

    try:
        wait_for('up{job="lasttoken-server"} == 1')
        with EmbeddingClient(smollm2_server.grpc_url, "smollm2_135m") as client:
            before = wait_for("sum(lasttoken_encoder_rows_total)")
            client.embed(["one", "two", "three"])
            wait_for(f"sum(lasttoken_encoder_rows_total) >= {before[0] + 3}")
            wait_for("sum(rate(lasttoken_encoder_real_tokens_total[30s])) > 0")
        [info] = ask("query", query="lasttoken_model_info")["result"]
        assert info["metric"]["precision"] == "fp32"
        assert info["metric"]["revision"].startswith("sha256:")
        rules = [r for g in ask("rules")["groups"] for r in g["rules"]]
        assert {r["name"] for r in rules} == {rule["alert"] for rule in RULES}
        assert {r["health"] for r in rules} <= {"ok", "unknown"}
        for query in dashboard_queries():
            ask("query", query=query.replace("$model", ".+").replace("$ensemble", ".+"))
    finally:
        process.terminate()
        process.wait(30)
