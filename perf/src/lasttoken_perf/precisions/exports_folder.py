"""Where the exports of this code are kept for the next run, as long as a run uses them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lasttoken_export
from lasttoken_export.model_sources import model_sources

_CODE = "code-"


@contextmanager
def exports_folder(folder: Path) -> Iterator[Path]:
    """Give the subfolder of what this code exports; no run of other code removes it meanwhile.

    Those of another revision of the exporter or of the served models are removed, unless a run
    uses them.

    Args:
        folder: Holds the subfolders; made if need be.
    """
    own = folder / f"{_CODE}{_digest_of_code()}"
    with _in_use(own):
        for other in sorted(folder.glob(f"{_CODE}*")):
            if other != own:
                _remove_if_unused(other)
        yield own


def _digest_of_code() -> str:
    digest = hashlib.sha256()
    sources = (Path(lasttoken_export.__file__).parent, model_sources())
    for source in sources:
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(f"{path.relative_to(source)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Make a folder and hold a lock that it shares with the other runs that use it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with _opened(folder) as descriptor:
            if descriptor is None:  # a run of other code was just removing it
                continue
            with contextlib.suppress(OSError):  # no locks there: then nothing is removed either
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not _is(folder, descriptor):
                continue
            yield
            return


def _remove_if_unused(folder: Path) -> None:
    with _opened(folder) as descriptor:
        if descriptor is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        shutil.rmtree(folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is(folder: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    return False
