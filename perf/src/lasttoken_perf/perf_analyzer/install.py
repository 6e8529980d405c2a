"""Installing perf_analyzer in the cache folder, as a command that can be run.

The wheel is taken by its hash: on a system that it does not support, an index offers a placeholder
0.1.0 of the same name instead. The binary is called itself; the console script always exits with 0.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lasttoken.errors import LasttokenError
from lasttoken.local.cache_folder import build_once
from lasttoken.local.installer import install_wheel
from lasttoken_perf.errors import ToolUnavailable
from lasttoken_perf.perf_analyzer.debian_runtime import install_debian_runtime, with_runtime

VERSION = "2.60.0"
SHA256 = "23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25"
_GLIBC = (2, 38)
_WHEEL_PLATFORM = "manylinux_2_38_x86_64"


def install_perf_analyzer(cache_folder: Path, announce: Callable[[str], None]) -> list[str]:
    """Fetch perf_analyzer unless the cache has it (7 MB), and see that it is the right one.

    Args:
        cache_folder: Where it is kept.
        announce: Told in a few words what takes long, when something does.

    Returns:
        The beginning of its command line.

    Raises:
        ToolUnavailable: It cannot be fetched or run here; the message says what to do.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ToolUnavailable(
            f"perf_analyzer is published for Linux x86_64, not for {sys.platform} "
            f"{platform.machine()}; run the measurement on such a machine against this server"
        )

    def build(folder: Path) -> None:
        announce(f"fetching perf_analyzer {VERSION} (7 MB, once)")
        try:
            install_wheel(
                f"perf-analyzer=={VERSION}", SHA256, folder, wheel_platform=_WHEEL_PLATFORM
            )
        except LasttokenError as error:
            raise ToolUnavailable(f"perf_analyzer could not be installed: {error}") from error
        (folder / "perf_analyzer" / "bin" / "perf_analyzer").chmod(0o755)

    folder = build_once(cache_folder / f"perf_analyzer-{VERSION}-{SHA256[:12]}", build)
    program = folder / "perf_analyzer" / "bin" / "perf_analyzer"
    if glibc_version() >= _GLIBC:
        command = [str(program)]
    else:
        command = with_runtime(install_debian_runtime(cache_folder, announce), program)
    check_version(folder, command)
    return command


def glibc_version() -> tuple[int, ...]:
    """Version of this system's C library; (0, 0) for another one than glibc."""
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else (0, 0)


def check_version(folder: Path, command: list[str]) -> None:
    """Check that the folder holds the wanted version and that its binary runs.

    The binary of the published wheel calls itself 0.0.0, so the version is the package's.

    Raises:
        ToolUnavailable: It is another version, or does not run.
    """
    found = [path.name for path in folder.glob("perf_analyzer-*.dist-info")]
    if found != [f"perf_analyzer-{VERSION}.dist-info"]:
        raise ToolUnavailable(f"{folder} holds {found}, not perf_analyzer {VERSION}; remove it")
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
        words = (done.stdout + done.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        words = str(error)
    if not re.match(r"Perf Analyzer Version \S+", words):
        raise ToolUnavailable(f"{command[-1]} does not run here: {words[-500:]!r}")
