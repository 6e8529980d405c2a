"""Prometheus and promtool: those on the PATH, or Debian's, unpacked into the cache folder."""

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def prometheus_program(cache_folder, name):
    """Return the path of ``prometheus`` or ``promtool``; skips where neither way is open."""
    if found := shutil.which(name):
        return Path(found)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"{name} is not on the PATH, and this is no Debian to fetch it from")
    folder = cache_folder / "prometheus-debian"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "usr" / "bin" / name
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.is_file():
            with tempfile.TemporaryDirectory() as scratch:
                download = ["apt-get", "download", "prometheus"]
                if subprocess.run(download, cwd=scratch, capture_output=True).returncode:
                    subprocess.run(["apt-get", "update"], check=True, capture_output=True)
                    subprocess.run(download, cwd=scratch, check=True, capture_output=True)
                [package] = Path(scratch).glob("prometheus_*.deb")
                subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return program
