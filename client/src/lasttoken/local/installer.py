"""Installing packages by hash, with uv where there is one and with pip otherwise."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lasttoken.errors import InstallationFailed

_TIMEOUT_S = 1800.0
_TAIL_CHARACTERS = 2000
_HASHED_WHEELS = ("--require-hashes", "--only-binary", ":all:")


def find_uv() -> list[str] | None:
    """Command that runs uv: the one on the PATH, or the running interpreter's own package."""
    if found := shutil.which("uv"):
        return [found]
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    return None


def make_environment(python: Path, folder: Path, requirements: Path) -> None:
    """Make a virtual environment and install a hashed requirements file into it.

    Args:
        python: Base interpreter.
        folder: The environment; exists and is empty.
        requirements: Every package with version and hashes, dependencies included.

    Raises:
        InstallationFailed: With the installer's own last words.
    """
    uv = find_uv()
    if uv is not None:
        _run([*uv, "venv", "--quiet", "--allow-existing", "--python", str(python), str(folder)])
        install = [*uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    else:
        _make_plain_environment(python, folder)
        install = _pip_install(folder / "bin" / "python")
    _run([*install, *_HASHED_WHEELS, "--requirement", str(requirements)])


def install_wheel(
    requirement: str, sha256: str, folder: Path, *, wheel_platform: str | None = None
) -> None:
    """Fetch one wheel, check its hash and unpack it into a folder, without its dependencies.

    Args:
        requirement: Exact requirement, such as `"name==1.2.3"`.
        sha256: Hash of the wheel file, in hexadecimal.
        folder: Where its top-level packages go.
        wheel_platform: Platform tag of the wheel, such as `"manylinux_2_38_x86_64"`, where it is
            not this system's; None for this system's.

    Raises:
        InstallationFailed: With the installer's own last words.
    """
    with tempfile.TemporaryDirectory(prefix="lasttoken-install-") as scratch:
        hashed = Path(scratch) / "requirements.txt"
        hashed.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        uv = find_uv()
        if uv is not None:
            # Copies, not links: the files get run bits, and uv's own cache must not change.
            install = [*uv, "pip", "install", "--quiet", "--link-mode", "copy"]
            install += ["--python", sys.executable]
            if wheel_platform is not None:
                # uv puts the machine first: x86_64-manylinux_2_38.
                system, _, _ = wheel_platform.partition("_x86_64")
                install += ["--python-platform", f"x86_64-{system}"]
        else:
            python = Path(sys.executable)
            if importlib.util.find_spec("pip") is None:
                _make_plain_environment(python, Path(scratch) / "pip")
                python = Path(scratch) / "pip" / "bin" / "python"
            install = [*_pip_install(python), "--no-compile", "--no-warn-conflicts"]
            if wheel_platform is not None:
                install += ["--platform", wheel_platform]
        target = ["--no-deps", "--target", str(folder), "--requirement", str(hashed)]
        _run([*install, *_HASHED_WHEELS, *target])


def _pip_install(python: Path) -> list[str]:
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    return [str(python), "-m", "pip", "install", *quiet]


def _make_plain_environment(python: Path, folder: Path) -> None:
    try:
        _run([str(python), "-m", "venv", str(folder)])
    except InstallationFailed as error:
        if "ensurepip" not in str(error):
            raise
        raise InstallationFailed(
            f"{str(python)!r} cannot make virtual environments because its ensurepip is missing: "
            "install uv (`pip install uv`), or on Debian and Ubuntu `apt-get install python3-venv`"
        ) from error


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallationFailed(f"could not run {' '.join(command)!r}: {error}") from error
    if done.returncode != 0:
        words = (done.stderr + done.stdout).strip()[-_TAIL_CHARACTERS:]
        raise InstallationFailed(
            f"{' '.join(command)!r} failed with exit code {done.returncode}. The first start needs "
            "the package index (or the mirror that pip or uv is configured for); later starts use "
            f"the cache and no network. The installer said:\n{words}"
        )
