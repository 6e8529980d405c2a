"""What the images' RUN lines and entry points call, run here for real."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from batch_planner import BatchLimits, CostModel
from encode_errors import Overloaded
from encode_request import EncodeRequest
from row_queue import RowQueue


@pytest.fixture
def docker(pytestconfig):
    return pytestconfig.rootpath / "docker"


def run(*command, **environment):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


# --- serve.sh ------------------------------------------------------------------------------------


@pytest.fixture
def tritonserver(tmp_path):
    """Environment with a `tritonserver` that shows its arguments."""
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "--allow-client-shm"\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    models = tmp_path / "models"
    models.mkdir()
    return {"PATH": f"{program.parent}:{os.environ['PATH']}", "MODEL_REPOSITORY": str(models)}


def test_triton_is_started_closed(docker, tritonserver):
    done = run(docker / "scripts" / "serve.sh", "--log-verbose=1", **tritonserver)
    arguments = done.stdout.splitlines()
    assert "--model-control-mode=none" in arguments
    assert "--strict-readiness=true" in arguments
    assert "--allow-client-shm=false" in arguments
    assert arguments[-1] == "--log-verbose=1"
    [closed] = [a for a in arguments if a.startswith("--grpc-restricted-protocol=")]
    assert re.fullmatch(
        r"--grpc-restricted-protocol=shared-memory,statistics,trace,logging"
        r":nobody=\w{20,}",
        closed,
    )
    assert not any("ssl" in argument for argument in arguments)


def test_the_closing_secret_is_new_at_each_start_and_not_shown(docker, tritonserver):
    starts = [run(docker / "scripts" / "serve.sh", **tritonserver).stdout for _ in range(2)]
    assert starts[0] != starts[1]
    shown = run(docker / "scripts" / "serve.sh", DRY_RUN="1", **tritonserver).stdout
    assert "nobody=..." in shown
    assert shown == run(docker / "scripts" / "serve.sh", DRY_RUN="1", **tritonserver).stdout


def test_certificates_turn_on_tls_and_a_ca_asks_for_theirs(docker, tritonserver, tmp_path):
    folder = tmp_path / "tls"
    folder.mkdir()
    refused = run(docker / "scripts" / "serve.sh", TLS_FOLDER=str(folder), **tritonserver)
    assert refused.returncode == 1
    assert "tls.crt" in refused.stderr
    for name in ("tls.crt", "tls.key"):
        (folder / name).write_text("x")
    done = run(docker / "scripts" / "serve.sh", TLS_FOLDER=str(folder), **tritonserver)
    assert "--grpc-use-ssl=1" in done.stdout
    assert "mutual" not in done.stdout
    (folder / "ca.crt").write_text("x")
    done = run(docker / "scripts" / "serve.sh", TLS_FOLDER=str(folder), **tritonserver)
    assert "--grpc-use-ssl-mutual=1" in done.stdout


def test_traces_go_to_the_collector_that_is_named(docker, tritonserver):
    silent = run(docker / "scripts" / "serve.sh", **tritonserver)
    assert "trace-config" not in silent.stdout
    done = run(docker / "scripts" / "serve.sh", OTLP_ENDPOINT="http://c:4318/", **tritonserver)
    arguments = done.stdout.splitlines()
    assert "--trace-config=mode=opentelemetry" in arguments
    assert "--trace-config=opentelemetry,url=http://c:4318/v1/traces" in arguments
    assert "--trace-config=rate=1000" in arguments


def test_a_missing_repository_is_said(docker, tritonserver):
    done = run(docker / "scripts" / "serve.sh", **{**tritonserver, "MODEL_REPOSITORY": "/nowhere"})
    assert done.returncode == 1
    assert "MODEL_REPOSITORY" in done.stderr


# --- probe.py ------------------------------------------------------------------------------------


@pytest.fixture
def answering():
    """Start a server that gives one answer to everything; returns its address."""
    servers = []

    def start(status, body, unknown_classes=()):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.server.asked.append(asked["parameters"]["service_class"])
                old = asked["parameters"]["service_class"] in unknown_classes
                self.send_response(400 if old else status)
                self.end_headers()
                refusal = {"error": "in ensemble 'm', service_class is 'probe'; send one of ..."}
                self.wfile.write(json.dumps(refusal if old else body).encode())

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.asked = []
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    start.servers = servers
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refusals():
    """What a real queue says when it is full, and when a deadline has passed."""
    queue = RowQueue(
        BatchLimits(preferred_tokens=8, max_rows=8),
        CostModel(attention_cell_cost=1e-3, overhead_tokens=8),
        max_queue_tokens=8,
        bulk_queue_fraction=0.5,
        bulk_every=3,
    )

    def request(**options):
        return EncodeRequest([np.ones(5, np.int32)], lambda answer: None, **options)

    queue.add(request(deadline_s=1.0))
    with pytest.raises(Overloaded) as overloaded:
        queue.add(request())
    _, [(_, expired)] = queue.next_batch(2.0)
    return str(overloaded.value), str(expired)


OVERLOADED, EXPIRED = refusals()


def vector(*numbers):
    return {"outputs": [{"name": "EMBEDDING", "data": list(numbers)}]}


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, vector(0.6, 0.8), 0),
        (503, {"error": f"in ensemble 'm', {OVERLOADED}"}, 0),
        (503, {"error": f"in ensemble 'm', {EXPIRED}"}, 0),
        (503, {"error": "the stub process is not healthy"}, 1),
        (500, {"error": "failed"}, 1),
        (200, vector(3.0, 4.0), 1),
        (200, vector(float("nan"), 1.0), 1),
        (200, {"outputs": []}, 1),
        (200, {}, 1),
    ],
)
def test_the_probe_tells_a_live_server(docker, answering, status, body, code):
    done = run(
        sys.executable, docker / "scripts" / "probe.py", "m", "--url", answering(status, body)
    )
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(
    ("unknown", "asked"), [((), ["probe"]), (("probe",), ["probe", "interactive"])]
)
def test_the_probe_passes_what_waits_where_the_encoder_knows_it(docker, answering, unknown, asked):
    url = answering(200, vector(0.6, 0.8), unknown_classes=unknown)
    done = run(sys.executable, docker / "scripts" / "probe.py", "m", "--url", url)
    assert done.returncode == 0, done.stderr
    assert answering.servers[0].asked == asked


def test_the_probe_fails_where_nothing_listens(docker):
    done = run(sys.executable, docker / "scripts" / "probe.py", "m", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "no answer" in done.stderr


@pytest.mark.server
def test_the_probe_gets_a_vector_of_a_real_server(docker, smollm2_server):
    url = smollm2_server.http_url
    url = url if url.startswith("http") else f"http://{url}"
    probe = (sys.executable, docker / "scripts" / "probe.py")
    done = run(*probe, "smollm2_135m", "--url", url)
    assert done.returncode == 0, done.stderr
    assert run(*probe, "nonesuch", "--url", url).returncode == 1


# --- match_tensorrt.py ---------------------------------------------------------------------------


def test_the_version_of_the_tensorrt_library_is_read_from_it(docker, tmp_path):
    source, library = tmp_path / "fake.c", tmp_path / "libnvinfer.so.11"
    source.write_text("int getInferLibVersion(void) { return 110406; }\n")
    subprocess.run(["cc", "-shared", "-o", library, source], check=True)
    script = docker / "scripts" / "match_tensorrt.py"
    done = run(sys.executable, script, LD_LIBRARY_PATH=str(tmp_path))
    assert done.stdout == "11.4.6\n"
    assert run(sys.executable, script, LD_LIBRARY_PATH="").returncode == 1


def test_the_bindings_of_the_images_tensorrt_are_imported_as_tensorrt(docker, tmp_path):
    source, library = tmp_path / "fake.c", tmp_path / "libnvinfer.so.11"
    source.write_text("int getInferLibVersion(void) { return 110406; }\n")
    subprocess.run(["cc", "-shared", "-o", library, source], check=True)
    # NVIDIA's index, as far as this script knows it: the wheel has the module tensorrt_bindings.
    wheel = tmp_path / "index" / "tensorrt_cu13_bindings-11.4.6.14-py3-none-any.whl"
    wheel.parent.mkdir()
    information = "tensorrt_cu13_bindings-11.4.6.14.dist-info"
    files = {
        "tensorrt_bindings/__init__.py": "__version__ = '11.4.6.14'\nBuilder = 'a class'\n",
        f"{information}/METADATA": "Metadata-Version: 2.1\nName: tensorrt-cu13-bindings\n"
        "Version: 11.4.6.14\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    site = tmp_path / "site"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run(
        docker / "scripts" / "install_tensorrt.sh", site, PATH=path,
        LD_LIBRARY_PATH=str(tmp_path), PIP_FIND_LINKS=str(wheel.parent), PIP_NO_INDEX="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = "import tensorrt as trt; print(trt.Builder, trt.__version__)"
    found = run(sys.executable, "-c", said, PYTHONPATH=str(site))
    assert found.stdout == "a class 11.4.6.14\n"


# --- locked installation -------------------------------------------------------------------------


def test_wheels_are_built_with_all_that_they_need(docker, tmp_path):
    done = run(docker / "scripts" / "build_wheels.sh", docker.parent, tmp_path, "client", "export")
    assert done.returncode == 0, done.stderr
    names = {}
    for wheel in tmp_path.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names[wheel.name.partition("-")[0]] = set(archive.namelist())
    assert "lasttoken/local/server_requirements.txt" in names["lasttoken"]
    assert "lasttoken/py.typed" in names["lasttoken"]
    sources = "lasttoken_export/model_repository/sfr_embedding_mistral_encoder/1/model.py"
    assert sources in names["lasttoken_export"]


def test_what_is_not_locked_by_hash_is_not_installed(docker, tmp_path):
    script = docker / "scripts" / "install_locked.sh"
    locked = (docker / "requirements" / "build.txt").read_text()
    [block] = re.findall(r"^pluggy==(?:.*\\\n)+.*$", locked, re.MULTILINE)
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(block + "\n")
    bad.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", block) + "\n")
    done = run(script, tmp_path / "site", good, LASTTOKEN_TARGET="1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "pluggy" / "__init__.py").is_file()
    refused = run(script, tmp_path / "other", bad, LASTTOKEN_TARGET="1")
    assert refused.returncode != 0
    assert not (tmp_path / "other" / "pluggy").exists()


# --- check_repository.py -------------------------------------------------------------------------

CHECK = "client/src/lasttoken/local/check_repository.py"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    files = {"m_tokenizer/1/tokenizer.json": b"{}", "m_encoder/1/encoder.onnx": b"graph"}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(content)
    card = {
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    }
    (folder / "m" / "1").mkdir(parents=True)
    (folder / "m" / "1" / "card.json").write_text(json.dumps(card))
    return folder


def edit_card(repository, change):
    file = repository / "m" / "1" / "card.json"
    card = json.loads(file.read_text())
    change(card)
    file.write_text(json.dumps(card))


def test_a_repository_as_exported_passes(docker, repository):
    script = docker.parent / CHECK
    done = run(sys.executable, script, repository)
    assert done.returncode == 0, done.stderr
    assert "as exported: m" in done.stdout
    assert run(sys.executable, script, repository, "other").returncode == 1
    refused = run(sys.executable, script, repository, "../repository/m")
    assert refused.returncode == 1
    assert "not the name of a model's folder" in refused.stderr


def replace_by_pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda r: (r / "m_encoder/1/encoder.onnx").write_bytes(b"grapg"), "sha256 is"),
        (lambda r: (r / "m_encoder/1/encoder.onnx").unlink(), "No such file"),
        (lambda r: (r / "m/1/card.json").write_text("{"), "not a readable card"),
        (lambda r: (r / "m/1/card.json").unlink(), "no model with a card"),
        (lambda r: edit_card(r, lambda c: c.update(sha256={})), "names no files"),
        (lambda r: edit_card(r, lambda c: c["sha256"].update({"../x": "0"})), "not within"),
        (lambda r: edit_card(r, lambda c: c["sha256"].update({"/etc/passwd": "0"})), "not within"),
        (
            lambda r: edit_card(r, lambda c: c["sha256"].update({"n_encoder/1/x": "0"})),
            "not within",
        ),
        (lambda r: edit_card(r, lambda c: c.update(sha256=[["m/1/x", "0"]])), "not digests"),
        (lambda r: edit_card(r, lambda c: c["sha256"].update({"m/1/\0": "0"})), "not within"),
        (lambda r: edit_card(r, lambda c: c["sha256"].update({"m/1/\ud800": "0"})), "surrogates"),
        (lambda r: replace_by_pipe(r / "m_encoder/1/encoder.onnx"), "not a regular file"),
        (lambda r: replace_by_pipe(r / "m/1/card.json"), "not a regular file"),
    ],
)
def test_a_repository_that_was_changed_does_not(docker, repository, damage, said):
    damage(repository)
    done = run(sys.executable, docker.parent / CHECK, repository)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.server
def test_what_the_exporter_writes_passes(docker, smollm2_repository):
    done = run(sys.executable, docker.parent / CHECK, smollm2_repository)
    assert done.returncode == 0, done.stderr


# --- export_once.sh ------------------------------------------------------------------------------


@pytest.fixture
def exporter(tmp_path):
    """Environment with a `lasttoken-export` that takes a second and counts its runs."""
    program = tmp_path / "bin" / "lasttoken-export"
    program.parent.mkdir()
    program.write_text(
        "#!/usr/bin/env bash\n"
        f'echo run >> "{tmp_path}/runs"\n'
        '[ "$1" = broken ] && exit 1\n'
        'while [ "$1" != --output ]; do shift; done\n'
        'mkdir -p "$2" && sleep 1 && echo whole > "$2/model"\n'
    )
    program.chmod(0o755)
    (tmp_path / "claim").mkdir()
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


def test_two_builders_build_once(docker, exporter, tmp_path):
    command = [docker / "scripts" / "export_once.sh", tmp_path / "claim", "key", "sfr"]
    environment = {**os.environ, **exporter}
    both = [subprocess.Popen([str(w) for w in command], env=environment) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "runs").read_text() == "run\n"
    assert (tmp_path / "claim" / "key" / "repository" / "model").read_text() == "whole\n"


def test_an_export_that_fails_or_was_killed_leaves_no_repository(docker, exporter, tmp_path):
    script, claim = docker / "scripts" / "export_once.sh", tmp_path / "claim"
    assert run(script, claim, "key", "broken", **exporter).returncode == 1
    assert not (claim / "key").exists()
    (claim / ".key.part" / "repository").mkdir(parents=True, exist_ok=True)
    assert run(script, claim, "key", "sfr", **exporter).returncode == 0
    assert (claim / "key" / "repository" / "model").is_file()
    assert run(script, claim, "../key", "sfr", **exporter).returncode == 2
