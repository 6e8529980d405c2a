"""Folders in which exports write aside of a repository, and what exports that were killed left.

A staging folder holds a file that its export keeps locked for as long as it lives: the kernel lets
go of the lock when the process is gone, however it went. The lock says nothing about another
machine that shares the folder, so the file names the boot of the kernel that it was locked under.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

NEW, OLD = "new", "old"
"""Within a staging folder: what is being written, and what it replaces."""
_LOCK = "lasttoken-export.lock"
_STAGING_NAME = re.compile(r"\.[A-Za-z0-9_][A-Za-z0-9_.-]*\.[a-z0-9_]{8}")
"""A dot, a model's name, and what `tempfile` appends."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def staging_folder(parent: Path, model: str) -> Iterator[Path]:
    """Give a folder to write in; it is gone afterwards, with all that is left in it.

    Args:
        parent: Where it is made.
        model: Triton name of the model.
    """
    lock = None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{model}.", dir=parent) as name:
            lock = _locked(Path(name))
            yield Path(name)
    finally:  # behind the folder: until then it is not stale
        if lock is not None:
            lock.close()


def _locked(folder: Path) -> TextIO | None:
    """Write and lock the file that tells that the export lives; None on a file system without."""
    nameless = folder / f"{_LOCK}.new"
    lock = nameless.open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    lock.write(_this_boot())
    lock.flush()
    nameless.rename(folder / _LOCK)  # not before it is locked: nobody finds it free
    return lock


def staging_parent(repository: Path) -> Path:
    """Folder to write aside in.

    Beside the repository: a Triton that starts meanwhile would take a folder within it for a model,
    a hidden one too, and fail. Within it where it is a file system of its own, since only there a
    rename is atomic.
    """
    beside = repository.resolve().parent
    same_file_system = beside.stat().st_dev == repository.stat().st_dev
    return beside if same_file_system and os.access(beside, os.W_OK) else repository


def remove_stale_staging(repository: Path) -> list[str]:
    """Remove the staging folders of exports that are gone, beside a repository and within it.

    What is not surely such a folder stays.

    Args:
        repository: The Triton model repository; it need not exist.

    Returns:
        A line about each folder that was removed, or that stays and may be one.
    """
    lines = []
    for parent in (repository.resolve().parent, repository):
        with suppress(OSError):  # not there, or not to be read
            candidates = sorted(parent.glob(".*"))
            lines += [line for path in candidates if (line := _remove_if_stale(path)) is not None]
    return lines


def _remove_if_stale(folder: Path) -> str | None:
    """Remove a folder of an export that is gone; say so, or why it stays; None for no such one."""
    if not _STAGING_NAME.fullmatch(folder.name) or folder.is_symlink():
        return None
    try:
        lock = open(  # noqa: SIM115 - closed below
            folder / _LOCK, encoding="utf-8", errors="replace", opener=_open_at_once
        )
    except OSError:
        return f"{folder} {_MAY_BE_LEFT}" if (folder / NEW).is_dir() else None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None  # its export lives
        except OSError:
            return f"{folder} {_MAY_BE_LEFT}"
        if lock.read(100) != _this_boot():
            return f"{folder} {_MAY_BE_LEFT}"
        if _holds_anything(folder / OLD) and _holds_anything(folder / NEW):
            return (
                f"{folder} was left by an export that ended while it replaced a model: move what "
                f"is in {folder / OLD} back into the repository, or remove it"
            )
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        return f"{folder} {_MAY_BE_LEFT}"
    return f"removed {folder}, which an export that was killed had left"


_MAY_BE_LEFT = (
    "may be what an export that was killed has left, or of one on another machine: remove it if no "
    "export is running"
)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # no link, and no wait on a pipe


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _this_boot() -> str:
    """What differs between machines that share a folder, and each time that one is started."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename
