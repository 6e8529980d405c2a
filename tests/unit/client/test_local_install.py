"""How Triton, an interpreter and an environment are found and installed; no Triton runs."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from lasttoken import (
    InstallationFailed,
    UnsupportedPlatform,
)
from lasttoken.local import installer, interpreter, triton_wheel
from lasttoken.local.cache_folder import build_once
from lasttoken.local.server_environment import REQUIREMENTS, install_environment

ROOT = Path(__file__).parents[3]


def test_a_finished_folder_is_not_built_again(tmp_path):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("contents")

    for _ in range(3):
        folder = build_once(tmp_path / "cache" / "thing", build)
        assert (folder / "file").read_text() == "contents"
    assert len(built) == 1


def test_a_failed_build_leaves_nothing_and_an_interrupted_one_is_started_anew(tmp_path):
    thing = tmp_path / "thing"

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise InstallationFailed("no network")

    with pytest.raises(InstallationFailed):
        build_once(thing, fail)
    assert not thing.exists()
    thing.mkdir()
    (thing / "half").touch()  # what a killed process leaves
    build_once(thing, lambda folder: (folder / "whole").touch())
    assert {path.name for path in thing.iterdir()} == {"whole", ".complete"}


def test_builders_that_meet_build_once(tmp_path):
    built = []

    def build(folder: Path) -> None:
        built.append(threading.get_ident())
        time.sleep(0.1)
        (folder / "file").touch()

    def work() -> None:
        assert (build_once(tmp_path / "thing", build) / "file").exists()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def fake_python(folder: Path, **facts: object) -> Path:
    told = {
        "version": "3.11.9",
        "prefix": str(folder / "prefix"),
        "executable": str(folder / "python"),
        "libdir": str(folder / "lib"),
        "multiarch": "x86_64-linux-gnu",
        **facts,
    }
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{json.dumps(told)}\nEND\n")
    program.chmod(0o755)
    return program


def test_the_running_interpreter_is_described_truly():
    found = interpreter.find_interpreter(sys.executable)
    assert found.version == platform.python_version()
    assert (found.library_folder / f"libpython{found.minor_version}.so.1.0").exists()
    assert found.executable.resolve() == Path(sys._base_executable).resolve()


@pytest.mark.parametrize("place", ["lib", "prefix/lib", "lib/x86_64-linux-gnu"])
def test_the_shared_library_is_found_where_pythons_keep_it(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "libpython3.11.so.1.0").touch()
    found = interpreter.find_interpreter(fake_python(tmp_path))
    assert found.library_folder == tmp_path / place


def test_a_python_without_shared_library_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(UnsupportedPlatform, match=r"apt-get install libpython3\.11"):
        interpreter.find_interpreter(fake_python(tmp_path))


@pytest.mark.parametrize("version", ["3.10.13", "3.13.0", "2.7.18"])
def test_other_versions_are_refused(tmp_path, version):
    with pytest.raises(UnsupportedPlatform, match=rf"is Python {version}.*needs Python 3\.11"):
        interpreter.find_interpreter(fake_python(tmp_path, version=version))


def test_no_interpreter_at_all(tmp_path, monkeypatch):
    with pytest.raises(UnsupportedPlatform, match="no Python interpreter"):
        interpreter.find_interpreter(tmp_path / "nothing")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(UnsupportedPlatform, match="not a working Python"):
        interpreter.find_interpreter(broken)
    monkeypatch.setattr(interpreter, "SUPPORTED_VERSIONS", ("3.99",))
    with pytest.raises(UnsupportedPlatform, match=r"python=\.\.\."):
        interpreter.find_interpreter()


def test_what_does_not_work_is_passed_over(tmp_path, monkeypatch):
    """As a version manager's python3.11 that says that no such version is chosen."""
    broken = tmp_path / "python3.11"
    broken.write_text("#!/bin/sh\necho 'python3.11: command not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "lib").mkdir()
    (tmp_path / "good" / "lib" / "libpython3.12.so.1.0").touch()
    good = fake_python(tmp_path / "good", version="3.12.1").rename(tmp_path / "python3.12")
    running = tmp_path / "running"
    running.write_text(fake_python(tmp_path, version="3.10.1").read_text())
    running.chmod(0o755)
    monkeypatch.setattr(interpreter.sys, "executable", str(running))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert interpreter.find_interpreter().version == "3.12.1"
    good.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedPlatform, match=r"is Python 3\.10\.1.*command not found"):
        interpreter.find_interpreter()


@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [
        ("darwin", "arm64", ("", "")),
        ("linux", "aarch64", ("glibc", "2.36")),
        ("linux", "x86_64", ("glibc", "2.31")),
        ("linux", "x86_64", ("", "")),
    ],
)
def test_other_platforms_are_refused(monkeypatch, system, machine, libc):
    monkeypatch.setattr(triton_wheel.sys, "platform", system)
    monkeypatch.setattr(triton_wheel.platform, "machine", lambda: machine)
    monkeypatch.setattr(triton_wheel.platform, "libc_ver", lambda: libc)
    with pytest.raises(UnsupportedPlatform, match="container"):
        triton_wheel.check_platform()


def test_a_new_glibc_will_do(monkeypatch):
    monkeypatch.setattr(triton_wheel.platform, "libc_ver", lambda: ("glibc", "2.100"))
    triton_wheel.check_platform()


@pytest.fixture(params=["uv", "pip"])
def offline_index(request, tmp_path, monkeypatch) -> Path:
    """A folder with one wheel instead of the package index, for each of the two installers."""
    if request.param == "pip":
        monkeypatch.setattr(installer, "find_uv", lambda: None)
    elif installer.find_uv() is None:
        pytest.skip("uv is not installed here")
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "toy_wheel-1.0-py3-none-any.whl", "w") as wheel:
        info = "toy_wheel-1.0.dist-info"
        wheel.writestr("toy_wheel/__init__.py", "")
        wheel.writestr("toy_wheel/data", "contents")
        about = "Metadata-Version: 2.1\nName: toy-wheel\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", about)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(index))
    return index


def wheel_hash(index: Path) -> str:
    return sha256((index / "toy_wheel-1.0-py3-none-any.whl").read_bytes()).hexdigest()


def test_a_wheel_is_unpacked_when_its_hash_is_right(offline_index, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    installer.install_wheel("toy-wheel==1.0", wheel_hash(offline_index), target)
    assert (target / "toy_wheel" / "data").read_text() == "contents"


def test_a_wheel_with_another_hash_is_refused(offline_index, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InstallationFailed, match=r"(?i)hash"):
        installer.install_wheel("toy-wheel==1.0", "0" * 64, target)
    assert not (target / "toy_wheel").exists()


def test_a_package_that_cannot_be_fetched_is_told_with_the_installers_words(
    offline_index, tmp_path
):
    with pytest.raises(InstallationFailed, match=r"(?s)needs the package index.*other-wheel"):
        installer.install_wheel("other-wheel==1.0", "0" * 64, tmp_path)


def test_the_environment_is_made_once_for_each_set_of_requirements(offline_index, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"toy-wheel==1.0 --hash=sha256:{wheel_hash(offline_index)}\n")
    python = interpreter.find_interpreter(sys.executable)
    told: list[str] = []
    first = install_environment(tmp_path / "cache", python, requirements, told.append)
    assert install_environment(tmp_path / "cache", python, requirements, told.append) == first
    assert len(told) == 1
    answer = subprocess.run(
        [first / "bin" / "python", "-c", "import sys, toy_wheel; print(sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(first)
    requirements.write_text(requirements.read_text() + "# changed\n")
    assert install_environment(tmp_path / "cache", python, requirements, told.append) != first


def test_a_python_without_ensurepip_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(installer, "find_uv", lambda: None)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'because ensurepip is not available' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(InstallationFailed, match="apt-get install python3-venv"):
        installer.make_environment(python, tmp_path / "environment", REQUIREMENTS)


def test_the_packaged_requirements_are_the_repositorys_and_pinned():
    assert REQUIREMENTS.read_bytes() == (ROOT / "model_repository/requirements.txt").read_bytes()
    lines = REQUIREMENTS.read_text().splitlines()
    pinned = [line.split()[0] for line in lines if line and line[0] not in " #"]
    assert all("==" in requirement for requirement in pinned)
    versions = dict(requirement.split("==") for requirement in pinned)
    assert int(versions["numpy"].split(".")[0]) < 2
    assert {"onnxruntime", "tokenizers"} <= set(versions)
    assert "torch" not in versions
    assert "transformers" not in versions
    assert sum("--hash=sha256:" in line for line in lines) >= len(pinned)


def test_missing_requirements_are_told(tmp_path):
    python = interpreter.find_interpreter(sys.executable)
    with pytest.raises(InstallationFailed, match=r"nothing\.txt"):
        install_environment(tmp_path, python, tmp_path / "nothing.txt", print)
