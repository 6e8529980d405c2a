"""What a figure depends on besides the code: processor, memory, GPUs, versions, revision."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from lasttoken_perf.gpu import describe_gpus

_PACKAGES = ("lasttoken", "onnxruntime", "numpy")
_VECTORS = ("amx_int8", "avx512_vnni", "avx512f", "avx2")


def describe_machine(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return processor, cores, memory, GPUs and versions.

    Args:
        packages: Distributions to name besides the usual ones; what is not installed is left out.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": ", ".join(sorted(names)),
        "widest_vectors": next((f for f in _VECTORS if f in flags), "none"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": describe_gpus(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: v for name in (*_PACKAGES, *packages) if (v := _version(name))},
    }


def device_name() -> str:
    """Short name of what computes here: the first GPU, or the processor with its cores."""
    machine = describe_machine()
    if machine["gpus"]:
        return str(machine["gpus"][0]["name"])
    return f"{machine['cores']} cores of {machine['processor']} ({machine['widest_vectors']})"


@cache
def git_revision() -> dict[str, Any] | None:
    """Commit of the checkout that this package lies in, and whether files differ from it.

    Asked once, when a command begins, for code that is committed meanwhile does not run in it.
    """
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
