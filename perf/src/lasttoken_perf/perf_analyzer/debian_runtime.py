"""A newer C and C++ runtime in a folder, for a program that this system's own is too old for.

Debian 13's packages are fetched by apt with a state of its own: nothing of the system changes, the
indices' signatures are checked with Debian's keyring and the packages by the indices' hashes. A
program is run with it by `<folder>/ld-linux-x86-64.so.2 --library-path <folder> PROGRAM`.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lasttoken.local.cache_folder import build_once
from lasttoken_perf.errors import ToolUnavailable

_MIRROR = "http://deb.debian.org/debian"
_SUITE = "trixie"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g", "libzstd1")
_LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
_LOADER = "ld-linux-x86-64.so.2"
_TIMEOUT_S = 300.0


def install_debian_runtime(cache_folder: Path, announce: Callable[[str], None]) -> Path:
    """Fetch and unpack the runtime unless the cache has it (6 MB to fetch).

    Args:
        cache_folder: Where it is kept.
        announce: Told in a few words what takes long, when something does.

    Returns:
        The folder with the loader and the libraries.

    Raises:
        ToolUnavailable: apt or Debian's keyring is missing, or the mirror cannot be reached.
    """

    def build(folder: Path) -> None:
        _check_prerequisites()
        announce("fetching Debian 13's C runtime for perf_analyzer (6 MB, once)")
        scratch = folder / "apt"
        for name in ("lists/partial", "archives/partial", "packages"):
            (scratch / name).mkdir(parents=True)
        (scratch / "status").touch()
        (scratch / "sources.list").write_text(
            f"deb [signed-by={_KEYRING}] {_MIRROR} {_SUITE} main\n"
        )
        options = _apt_options(scratch)
        _run(["apt-get", *options, "update"], scratch)
        _run(["apt-get", *options, "download", *_PACKAGES], scratch / "packages")
        for package in sorted((scratch / "packages").glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(package), str(folder / "root")], scratch)
        unneeded = shutil.ignore_patterns("gconv", "engines-3", "ossl-modules")
        libraries = folder / "root" / _LIBRARIES
        shutil.copytree(libraries, folder / "lib", symlinks=True, ignore=unneeded)
        shutil.rmtree(folder / "root")
        shutil.rmtree(scratch)
        if not (folder / "lib" / _LOADER).exists():
            raise ToolUnavailable(f"Debian's libc6 has no {_LOADER}; report this")

    return build_once(cache_folder / f"debian-{_SUITE}-runtime", build) / "lib"


def with_runtime(runtime: Path, program: Path) -> list[str]:
    """Command that runs a program with the libraries of the runtime."""
    return [str(runtime / _LOADER), "--library-path", str(runtime), str(program)]


def _check_prerequisites() -> None:
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing or not _KEYRING.exists():
        what = " and ".join(missing) or f"Debian's keyring {_KEYRING}"
        raise ToolUnavailable(
            f"perf_analyzer needs glibc 2.38 or newer, and {what} is missing here, with which a "
            "newer one could be fetched beside the system's; run this on Debian 13, Ubuntu 24.04 "
            "or in Triton's SDK container, or install debian-archive-keyring"
        )


def _apt_options(scratch: Path) -> list[str]:
    settings = {
        "Dir::State": scratch,
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch,
        "Dir::Cache::archives": scratch / "archives",
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Update::Error-Mode": "any",  # a mirror that cannot be reached is an error
        "Acquire::Languages": "none",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Retries": "2",
    }
    return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolUnavailable(f"could not run {command[0]}: {error}") from error
    if done.returncode:
        raise ToolUnavailable(
            f"Debian 13's C runtime, which perf_analyzer needs on this system, could not be "
            f"fetched from {_MIRROR} (it is fetched once and kept; is this machine online?). "
            f"{command[0]} said:\n{(done.stderr + done.stdout).strip()[-1500:]}"
        )
