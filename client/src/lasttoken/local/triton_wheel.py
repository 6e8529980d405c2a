"""The Triton server itself, taken from a wheel and kept in the cache folder.

Source: the PyPI package nvidia-pytriton carries NVIDIA's `tritonserver` 2.51.0 (release 24.10), its
Python backend and one stub for each Python version; only these files are used.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from lasttoken.errors import UnsupportedPlatform
from lasttoken.local.cache_folder import build_once
from lasttoken.local.installer import install_wheel

REQUIREMENT = "nvidia-pytriton==0.7.0"
SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
TRITON_VERSION = "2.51.0"
MINIMUM_GLIBC = (2, 35)

_SERVER = Path("pytriton/tritonserver")


def check_platform() -> None:
    """Check that the wheel can run here.

    Raises:
        UnsupportedPlatform: Not Linux on x86-64, or its C library is too old.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnsupportedPlatform(
            f"the local server runs on Linux x86_64, not on {sys.platform} {platform.machine()}; "
            "start Triton in a container instead and give the client its address"
        )
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else (0, 0)
    if numbers < MINIMUM_GLIBC:
        raise UnsupportedPlatform(
            f"the local server needs glibc {'.'.join(map(str, MINIMUM_GLIBC))} or newer, this "
            f"system has {name or 'another C library'} {version}; start Triton in a container"
        )


def install_triton(cache_folder: Path, announce: Callable[[str], None]) -> Path:
    """Fetch and unpack Triton unless the cache has it (about 55 MB to fetch, 145 MB on disk).

    Args:
        cache_folder: Where it is kept.
        announce: Told in a few words what takes long, when something does.

    Returns:
        The folder that holds `pytriton/` and `nvidia_pytriton.libs/`.

    Raises:
        UnsupportedPlatform: See `check_platform`.
        InstallationFailed: The wheel could not be fetched, or is not the expected file.
    """
    check_platform()

    def build(folder: Path) -> None:
        announce(f"fetching Triton {TRITON_VERSION} (55 MB, once)")
        install_wheel(REQUIREMENT, SHA256, folder)
        binary = server_binary(folder)
        binary.chmod(0o755)  # the wheel does not carry the run bit

    return build_once(cache_folder / f"triton-{TRITON_VERSION}-{SHA256[:12]}", build)


def server_binary(triton: Path) -> Path:
    """Path of the `tritonserver` program in an unpacked wheel."""
    return triton / _SERVER / "bin" / "tritonserver"


def library_folder(triton: Path) -> Path:
    """Path of the shared libraries that came with it."""
    return triton / "nvidia_pytriton.libs"


def backend_folder(triton: Path, cache_folder: Path, python_version: str) -> Path:
    """Lay out the backends with the stub of one Python version, as Triton wants to find them.

    Args:
        triton: The unpacked wheel.
        cache_folder: Where the layout is kept.
        python_version: Such as `"3.11"`.

    Returns:
        Folder for `--backend-directory`.
    """
    source = triton / _SERVER
    stub = source / "python_backend_stubs" / python_version / "triton_python_backend_stub"

    def build(folder: Path) -> None:
        shutil.copytree(source / "backends", folder, dirs_exist_ok=True)
        target = folder / "python" / stub.name
        shutil.copyfile(stub, target)
        os.chmod(target, 0o755)  # noqa: PTH101, S103 - a program

    return build_once(cache_folder / f"{triton.name}-backends-py{python_version}", build)
