"""LasttokenInferencesFail on what a real Triton counts of refusals, engine errors, dead models."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from docker.helm_program import default_cache
from docker.prometheus_programs import prometheus_program
from gateway.small_models import write_small_models
from lasttoken.local import LocalTriton
from server.test_supervision import stubs

pytestmark = pytest.mark.server

RULES = Path(__file__).parents[2] / "docker" / "helm" / "lasttoken" / "files" / "alerts.yml"
ALERT = "LasttokenInferencesFail"
FAILING_TOKENS = 33
LARGE_REQUEST_TOKENS = 256 * 40
FAILING_ENGINE = f"""

_open_engine = open_engine


def open_engine(version_folder, settings):
    engine = _open_engine(version_folder, settings)
    encode = engine.encode

    def failing(input_ids, row_lengths):
        if {FAILING_TOKENS} in list(row_lengths):
            raise RuntimeError("the device is lost")
        return encode(input_ids, row_lengths)

    engine.encode = failing
    return engine
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory, cache_folder):
    """A Triton whose engine fails on texts of `FAILING_TOKENS` tokens, with a short queue."""
    repository = write_small_models(tmp_path_factory.mktemp("failing"))
    encoder = repository / "short_encoder"
    engine = encoder / "1" / "engine_choice.py"
    engine.write_text(engine.read_text() + FAILING_ENGINE)
    config = (encoder / "config.pbtxt").read_text()
    queue = r'("max_queue_tokens" value \{ string_value: ")\d+'
    (encoder / "config.pbtxt").write_text(re.sub(queue, rf"\g<1>{LARGE_REQUEST_TOKENS}", config))
    # At the end its models' processes are dead, which Triton would wait for to no end.
    with LocalTriton(repository, cache_folder=cache_folder, stop_timeout_s=3) as started:
        yield started


def ask(server, *texts, timeout_us=None, prompt=None):
    """Ask for vectors over HTTP, in the raw; returns the status and what is said."""
    inputs = {"TEXT": texts} | ({} if prompt is None else {"PROMPT_NAME": [prompt] * len(texts)})
    blobs = [b"".join(struct.pack("<I", len(t)) + t for t in v) for v in inputs.values()]
    head = {
        "inputs": [
            {"name": name, "datatype": "BYTES", "shape": [len(texts), 1],
             "parameters": {"binary_data_size": len(blob)}}
            for name, blob in zip(inputs, blobs, strict=True)
        ],
        "parameters": {} if timeout_us is None else {"timeout": timeout_us},
    }  # fmt: skip
    header = json.dumps(head).encode()
    answer = httpx.post(
        f"http://{server.http_url.removeprefix('http://')}/v2/models/short/infer",
        content=b"".join([header, *blobs]),
        headers={"Inference-Header-Content-Length": str(len(header))},
        timeout=20,
    )
    return answer.status_code, answer.text


def counters(server):
    """Every counter of requests and rows, by series."""
    text = httpx.get(server.metrics_url, timeout=10).text
    kept = r"^((?:nv_inference_request_(?:success|failure)|lasttoken_\w+_total)\{\S+\}) (\S+)$"
    return {series: float(value) for series, value in re.findall(kept, text, re.MULTILINE)}


def overload(server):
    """Fill the queue, and more; returns the refusals."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, *[b"a" * 38] * 256), range(8)))
    return [answer for answer in answers if answer[0] != 200]


def refusals(server):
    assert ask(server, b"a text")[0] == 200
    overloaded = overload(server)
    for said, answer in (
        *(("overloaded", answer) for answer in overloaded),
        ("is not UTF-8", ask(server, b"\xff\xfe")),
        ("PROMPT_NAME is", ask(server, b"a", prompt=b"nonesuch")),
        ("the limit is", ask(server, b"a" * 1_000_001)),
        ("deadline exceeded", ask(server, b"a", timeout_us=1)),
    ):
        assert answer[0] in (400, 503), answer
        assert said in answer[1]
    assert overloaded
    return 4 + len(overloaded)


def failing_engine(server):
    assert ask(server, b"a text")[0] == 200
    status, said = ask(server, b"a" * (FAILING_TOKENS - 2))
    assert status == 500, said
    assert "the device is lost" in said
    return 1


def dead(part):
    def harm(server):
        if (pid := stubs(server.pid).get(f"short_{part}")) is not None:
            os.kill(pid, signal.SIGKILL)
        for _ in range(3):
            status, said = ask(server, b"a text")
            assert status == 500, said
            assert f"Stub process 'short_{part}_0_0' is not healthy" in said
        return 3

    return harm


def recorded(server, harm):
    """What the server counts while harm is done, as promtool's series: again in each interval."""
    before = counters(server)
    requests = harm(server)
    time.sleep(1)  # some counters are told on a thread of their own
    after = counters(server)
    made = []
    for series, value in after.items():
        more = value - before.get(series, 0)
        start = f"{before[series]:g}" if series in before else f"_ {more:g}"
        values = f"{start}+{more:g}x80"
        made.append({"series": series.replace("{", '{instance="a",', 1), "values": values})
    return made, requests, {series: after[series] - before.get(series, 0) for series in after}


def test_only_failures_raise_the_alert(server, tmp_path):
    tests, counted, failed = [], {}, {}
    for name, harm, model in (
        ("refusals", refusals, None),
        ("engine", failing_engine, "short_encoder"),
        ("encoder", dead("encoder"), "short_encoder"),
        ("tokenizer", dead("tokenizer"), "short_tokenizer"),
    ):
        series, failed[name], counted[name] = recorded(server, harm)
        expected = {
            "exp_labels": {"severity": "critical", "instance": "a", "model": model},
            "exp_annotations": {
                "summary": f"{model} on a: more than 5 % of the work fails",
                "runbook": f"docs/runbooks.md#{ALERT.lower()}",
            },
        }
        check = {"eval_time": "15m", "alertname": ALERT, "exp_alerts": [expected] if model else []}
        tests.append(
            {"name": name, "interval": "15s", "input_series": series, "alert_rule_test": [check]}
        )
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}))
    promtool = prometheus_program(default_cache(), "promtool")
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    # What docs/metrics.md says of it: the ensemble counts refusals and failures alike.
    def failures(name, model, reason):
        return counted[name][
            f'nv_inference_request_failure{{model="{model}",reason="{reason}",version="1"}}'
        ]

    for name, requests in failed.items():
        assert failures(name, "short", "OTHER") == 2 * requests, name
    for part in ("tokenizer", "encoder"):
        assert failures("refusals", f"short_{part}", "BACKEND") == 0
        assert failures("engine", f"short_{part}", "BACKEND") == 0
        assert failures(part, f"short_{part}", "BACKEND") == failed[part]
