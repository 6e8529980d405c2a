"""The Dockerfiles: linted, pinned, unprivileged, and with what they copy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_every_image_runs_as_nobody_in_particular(path):
    last_stage = path.read_text().rpartition("\nFROM ")[2]
    assert "\nUSER 1000:1000\n" in last_stage


def test_the_release_of_triton_is_pinned_and_the_same_for_builder_and_server():
    tags = {
        re.search(r"^ARG TRITON_IMAGE=(\S+)$", path.read_text(), re.MULTILINE)[1]
        for path in DOCKERFILES
        if "TRITON_IMAGE" in path.read_text()
    }
    [tag] = tags
    year, month = map(int, re.search(r":(\d\d)\.(\d\d)-py3$", tag).groups())
    assert (year, month) >= (26, 5)  # older ones have known vulnerabilities


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_scripts_that_are_called_exist_and_can_be_run(path):
    for name in re.findall(r"(?:docker/scripts|client/src)/[\w./]+", path.read_text()):
        script = ROOT / name
        assert script.is_file(), name
        assert script.suffix == ".py" or script.stat().st_mode & 0o111


def pins(text):
    return dict(re.findall(r"^([a-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["gateway", "exporter"])
def test_locked_requirements_are_those_of_the_workspace(name):
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    versions = {}
    for package in lock["package"]:
        versions.setdefault(package["name"], set()).add(package.get("version"))
    found = pins((ROOT / "docker" / "requirements" / f"{name}.txt").read_text())
    assert found
    stale = {p: v for p, v in found.items() if v not in versions.get(p, set())}
    assert stale == {}, "run docker/scripts/lock.sh"


def test_the_gpu_servers_requirements_are_those_of_the_models():
    ours = pins((ROOT / "docker" / "requirements" / "server-gpu.txt").read_text())
    theirs = pins((ROOT / "model_repository" / "requirements.txt").read_text())
    assert ours["tokenizers"] == theirs["tokenizers"]
    assert ours["numpy"].startswith("1.")
    assert "onnxruntime-gpu" in ours
    assert "onnxruntime" not in ours
