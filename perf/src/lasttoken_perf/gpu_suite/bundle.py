"""What a bare GPU machine lacks, in parts that can be carried there: ``make gpu-bundle``.

    build/gpu-bundle/site       packages for that machine's Python, ready for its PYTHONPATH
    build/gpu-bundle/wheels     with --triton: what a local Triton installs itself from
    build/gpu-bundle/part-*     both as one archive, cut into parts

Versions are those of uv.lock and of the server image; torch is never packed. ``--has`` names what
the machine has: a package stays out where its version will do.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tomllib

from lasttoken.local.installer import find_uv
from lasttoken.local.triton_wheel import REQUIREMENT as TRITON
from lasttoken_perf.errors import InvalidSuite, PerfError, ToolUnavailable

_CHECKOUT = Path(__file__).parents[4]
_SERVER_REQUIREMENTS = _CHECKOUT / "docker" / "requirements" / "server-gpu.txt"
_PACKAGES = ("client", "export", "perf")
_PLATFORM = "manylinux_2_28_x86_64"
_OLDER_PLATFORMS = ("manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
                    "manylinux_2_35_x86_64", "linux_x86_64")  # fmt: skip
_MIB = 2**20


def parse_installed(text: str) -> dict[str, str]:
    """Read what a machine has: ``pip list --format=json``, or ``pip freeze``.

    Returns:
        Versions by normalised name.

    Raises:
        InvalidSuite: It is neither.
    """
    try:
        listed = json.loads(text)
    except ValueError:
        found = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
        if not found:
            raise InvalidSuite(
                "--has must be what `python3 -m pip list --format=json` or `pip freeze` prints on "
                "the GPU machine"
            ) from None
        return {normalise(name): version for name, version in found}
    return {normalise(item["name"]): item["version"] for item in listed}


def lowest_versions(requirements: Iterable[str]) -> dict[str, str]:
    """Return the lower bounds that requirements such as ``numpy>=1.26`` declare, by name."""
    found = (re.match(r"([\w.-]+)(?:\[[^\]]*\])?>=([\d.]+)", item) for item in requirements)
    return {normalise(match[1]): match[2] for match in found if match}


def lacking(
    locked: Iterable[str], declared: Mapping[str, str], installed: Mapping[str, str]
) -> list[str]:
    """Return the locked requirements that a machine must be given.

    What our packages declare must have the version that they ask for; what comes along with it
    must be no older than the one that was tested.

    Args:
        locked: Lines ``name==version``, with a marker behind ``;`` or without.
        declared: Of `lowest_versions`.
        installed: Of `parse_installed`.
    """
    needed = []
    for line in locked:
        match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?==([^\s;]+)", line)
        if match is None:
            continue
        name, version = normalise(match[1]), match[2]
        enough = declared.get(name, version)
        if name not in installed or _numbers(installed[name]) < _numbers(enough):
            needed.append(line.strip())
    return needed


def write_parts(folder: Path, names: Sequence[str], part_bytes: int) -> list[Path]:
    """Pack folders into one archive, cut into parts that follow each other by name.

    Args:
        folder: Where they lie, and where ``part-000`` and so on are written; older ones go.
        names: Folders in it.
        part_bytes: Largest part.
    """
    for old in folder.glob("part-*"):
        old.unlink()
    archive = folder / "archive.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for name in names:
            tar.add(folder / name, arcname=name)
    parts: list[Path] = []
    with archive.open("rb") as source:
        while chunk := source.read(part_bytes):
            part = folder / f"part-{len(parts):03}"
            part.write_bytes(chunk)
            parts.append(part)
    archive.unlink()
    return parts


def normalise(name: str) -> str:
    """Return a distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _locked() -> list[str]:
    return _run(
        [*_uv(), "export", "--quiet", "--locked", "--no-hashes", "--no-emit-workspace",
         "--no-dev", "--package", "lasttoken-perf", "--format", "requirements.txt"]
    ).splitlines()  # fmt: skip


def _declared() -> dict[str, str]:
    requirements: list[str] = []
    for package in _PACKAGES:
        project = tomllib.loads((_CHECKOUT / package / "pyproject.toml").read_text())["project"]
        requirements += project["dependencies"]
    return lowest_versions(requirements)


def _server_version(name: str) -> str:
    found = re.search(rf"^{name}==(\S+)", _SERVER_REQUIREMENTS.read_text(), re.MULTILINE)
    assert found is not None
    return f"{name}=={found[1]}"


def _uv() -> list[str]:
    uv = find_uv()
    if uv is None:
        raise ToolUnavailable("uv is not installed; use `make gpu-bundle`, which brings it")
    return uv


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_CHECKOUT)
    if done.returncode:
        raise ToolUnavailable(
            f"{' '.join(command[:6])} ... failed:\n{(done.stderr + done.stdout).strip()[-2000:]}"
        )
    return done.stdout


def _make_site(requirements: Sequence[str], folder: Path, python_version: str) -> None:
    listing = folder.with_name("requirements.txt")
    listing.write_text("\n".join(requirements) + "\n")
    folder.mkdir()
    system = _PLATFORM.removesuffix("_x86_64")
    _run([*_uv(), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
          "--link-mode", "copy", "--python-version", python_version,
          "--python-platform", f"x86_64-{system}", "--target", str(folder),
          "--requirement", str(listing)])  # fmt: skip


def _make_wheels(folder: Path, python_version: str) -> None:
    platforms = [item for name in (_PLATFORM, *_OLDER_PLATFORMS) for item in ("--platform", name)]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                "--no-deps", "--only-binary", ":all:", "--python-version", python_version,
                "--implementation", "cp", *platforms, "--dest", str(folder)]  # fmt: skip
    _run([*download, "--require-hashes", "--requirement", str(_SERVER_REQUIREMENTS)])
    _run([*download, TRITON])


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the bundle; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lasttoken_perf.gpu_suite.bundle",
        description="packs what a bare GPU machine lacks to run the suite",
    )
    # fmt: off
    parser.add_argument("--has", type=Path, metavar="FILE",
                        help="pip list --format=json of that machine (it has torch alone)")
    parser.add_argument("--python-version", default="3.12", metavar="X.Y",
                        help="of that machine (%(default)s)")
    parser.add_argument("--onnxruntime-gpu", action="store_true",
                        help="also ONNX Runtime with its CUDA provider, in the server's version")
    parser.add_argument("--triton", action="store_true",
                        help="also a Triton and the wheels of its Python models")
    parser.add_argument("--part-mib", type=int, default=48, metavar="MIB",
                        help="largest part (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-bundle"), metavar="DIR",
                        help="folder, made anew (%(default)s)")
    # fmt: on
    options = parser.parse_args(arguments)
    try:
        installed = parse_installed(options.has.read_text()) if options.has else {}
        needed = lacking(_locked(), _declared(), installed)
        if options.onnxruntime_gpu:
            needed = [line for line in needed if not line.startswith("onnxruntime==")]
            needed.append(_server_version("onnxruntime-gpu"))
        folder = options.output.absolute()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _make_site(needed, folder / "site", options.python_version)
        names = ["site"]
        if options.triton:
            (folder / "wheels").mkdir()
            _make_wheels(folder / "wheels", options.python_version)
            names.append("wheels")
        parts = write_parts(folder, names, options.part_mib * _MIB)
    except PerfError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for line in (*needed, *(f"{p} {p.stat().st_size / _MIB:.1f} MiB" for p in parts)):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
