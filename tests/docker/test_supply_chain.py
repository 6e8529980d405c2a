"""The lists of the images' packages, and the audit of everything that is locked."""

import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKED = {
    "gateway": ["docker/requirements/gateway.txt"],
    "exporter": ["docker/requirements/exporter.txt"],
    "server": ["docker/requirements/server-gpu.txt"],
    "server-cpu": ["docker/requirements/exporter.txt", "model_repository/requirements.txt"],
}


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sbom")
    done = subprocess.run(
        [ROOT / "docker" / "scripts" / "sbom.sh", folder],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return {path.name: json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize("image", LOCKED)
def test_every_locked_package_is_listed_with_its_digests(lists, image):
    text = "\n".join((ROOT / name).read_text() for name in LOCKED[image])
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    digests = set(re.findall(r"sha256:([0-9a-f]{64})", text))
    assert pins
    found = lists[f"lasttoken-{image}.cdx.json"]
    assert found["bomFormat"] == "CycloneDX"
    components = [(c["name"], c.get("version")) for c in found["components"]]
    assert set(components) == set(pins)
    listed = {
        digest["content"]
        for component in found["components"]
        for reference in component.get("externalReferences", [])
        for digest in reference.get("hashes", [])
    }
    assert listed == digests
    for component in found["components"]:
        assert component["purl"].startswith(f"pkg:pypi/{component['name'].lower()}@")


def test_every_image_has_a_list(lists):
    images = {path.stem for path in (ROOT / "docker").glob("*.Dockerfile")}
    assert {f"lasttoken-{image}.cdx.json" for image in images} == set(lists)


KNOWN = {"urllib3": "CVE-2021-33503"}
"""What the audit's canary must find."""


class Advisories(http.server.ThreadingHTTPServer):
    """Answers as OSV does, of what it is told."""

    def __init__(self, known):
        self.known, self.asked = known, []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, version = query["package"]["name"], query["version"]
        self.server.asked.append(f"{name}=={version}")
        answer = {}
        if name in self.server.known:
            events = [{"introduced": "0"}, {"fixed": "999"}]
            affected = {"package": {"name": name, "ecosystem": "PyPI"}, "versions": [version],
                        "ranges": [{"type": "ECOSYSTEM", "events": events}]}  # fmt: skip
            answer = {"vulns": [{"id": self.server.known[name], "summary": "s", "details": "d",
                                 "affected": [affected], "published": "2021-06-29T00:00:00Z",
                                 "modified": "2021-06-29T00:00:00Z"}]}  # fmt: skip
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def advisories():
    servers = []

    def start(known):
        servers.append(Advisories(known))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def audit(tmp_path, url, *options):
    locked = tmp_path / "locked.txt"
    locked.write_text(
        "numpy==1.26.4 \\\n    --hash=sha256:00\nanyio==4.16.0 ; python_version > '3'\n"
    )
    return subprocess.run(
        [sys.executable, ROOT / "docker" / "scripts" / "audit.py", "--osv-url", url, *options,
         locked],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_packages_without_known_vulnerabilities(tmp_path, advisories):
    service = advisories(KNOWN)
    done = audit(tmp_path, service.url, "--required")
    assert done.returncode == 0, done.stderr
    assert "2 packages looked up, 0 with known" in done.stdout
    assert {"numpy==1.26.4", "anyio==4.16.0"} <= set(service.asked)


def test_a_package_with_a_known_vulnerability(tmp_path, advisories):
    done = audit(tmp_path, advisories({**KNOWN, "anyio": "PYSEC-1"}).url)
    assert done.returncode == 1
    assert "anyio 4.16.0: PYSEC-1; fixed in 999" in done.stdout


@pytest.mark.parametrize("kind", ["ignorant", "unreachable"])
def test_a_service_whose_silence_means_nothing_is_no_clearance(tmp_path, advisories, kind):
    service = advisories({})
    url = service.url if kind == "ignorant" else "http://127.0.0.1:9/v1/query"
    for options, code in (((), 0), (("--required",), 2)):
        done = audit(tmp_path, url, *options)
        assert done.returncode == code, done.stderr
        assert "audit SKIPPED, 2 packages not looked up" in done.stderr


def test_the_audit_covers_whatever_is_locked():
    import importlib.util

    spec = importlib.util.spec_from_file_location("audit", ROOT / "docker/scripts/audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pins = set(module.locked_packages([]))
    for names in LOCKED.values():
        for name in names:
            text = (ROOT / name).read_text()
            assert set(re.findall(r"^([A-Za-z0-9._-]+==[^\s;\\]+)", text, re.MULTILINE)) <= pins
    assert any(pin.startswith("pytest==") for pin in pins)
