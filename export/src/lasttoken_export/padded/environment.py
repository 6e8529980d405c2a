"""The Python environment that runs optimum: made once, lazily, and kept in the cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lasttoken_export.checkpoint.packaged import default_cache_folder
from lasttoken_export.errors import SourceUnavailable

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def optimum_python(
    cache_folder: Path | None = None, *, announce: Callable[[str], None] | None = None
) -> Path:
    """Return the Python of the environment, which is made if need be.

    Its folder is named after the requirements and the interpreter, so a change of either makes a
    new one. It is built aside and renamed: an interrupted installation is never used.

    Args:
        cache_folder: Where environments are kept; None for `default_cache_folder`.
        announce: Told in a few words what takes long, when something does.

    Raises:
        SourceUnavailable: A package cannot be fetched or installed.
    """
    cache = cache_folder or default_cache_folder()
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.base_prefix.encode()).hexdigest()[:12]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / f"optimum-py{version}-{key}"
    python = folder / "bin" / "python"
    if python.exists():
        return python
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{folder.name}.lock"):
        if not python.exists():  # another process may have made it meanwhile
            if announce is not None:
                announce("installing optimum and torch into an environment of their own (once)")
            aside = cache / f"{folder.name}.new"
            shutil.rmtree(aside, ignore_errors=True)
            _install(aside)
            aside.rename(folder)
    return python


def _install(folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SourceUnavailable(
            f"optimum is installed with pip, which {sys.executable} lacks; install it (python -m "
            "ensurepip, or uv pip install pip)"
        )
    # Without pip in it: Debian's Python may lack what puts it there.
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    _run(
        [
            sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install",
            "--quiet", "--disable-pip-version-check", "--requirement", str(REQUIREMENTS),
        ]
    )  # fmt: skip


def _run(command: list[str]) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        reason = ([line for line in run.stderr.splitlines() if line.strip()] or ["no reason"])[-1]
        raise SourceUnavailable(
            f"the environment of optimum ({REQUIREMENTS.name} beside {Path(__file__).name}) could "
            f"not be made: {reason}; try again with a network, once is enough"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
