"""The cache folder: things that are fetched or built once and then kept."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

_MARKER = ".complete"


def default_cache_folder() -> Path:
    """Folder of everything that lasttoken keeps between runs."""
    return Path.home() / ".cache" / "lasttoken"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Make `folder` by `build(folder)` unless an earlier run has finished it.

    A lock file beside the folder keeps other processes out meanwhile. The folder counts as finished
    only when it holds the marker written after `build` returned, so an interrupted build is started
    anew and never used.

    Args:
        folder: What to make; its name should identify the contents completely.
        build: Called with the folder, which is new and empty.

    Returns:
        The finished folder.
    """
    if (folder / _MARKER).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / _MARKER).exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            build(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / _MARKER).touch()
    return folder
