"""The files of a calibration, under way and finished: written whole, and read back only if whole.

A disk that was full, or a machine that lost its power, may leave any of them damaged. What is
damaged is calculated anew, and the user told.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken_export.quantisation.calibration import MANIFEST, Calibration, layer_file
from lasttoken_export.quantisation.weights import Floats

_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError, EOFError)
"""What reading a damaged file raises; an error of the operating system's is none."""
_UNFINISHED = "new-"
_LOCK = "lock"
_FORSAKEN_S = 24 * 3600.0
"""So old a file with that name is nobody's: writing one takes minutes at most."""


@contextmanager
def one_at_a_time(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait while another process is at the same calibration: then it is there to be found.

    The kernel lets go of the lock when that process ends, however it ends. Where the file system
    has no locks both calibrate, as files are written whole.

    Args:
        folder: Of one calibration.
        say: Told that another process is waited for.
    """
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is at the calibration {folder}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def find_calibration(folder: Path, say: Callable[[str], None]) -> Calibration | None:
    """Return the finished calibration of a folder; None, and no manifest any more, for a damaged.

    Args:
        folder: Of one calibration.
        say: Told that one is damaged.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    try:
        found = Calibration(folder)
        linears: dict[str, int] = found.manifest["linears"]
        for layer in sorted(set(linears.values())):
            wanted = {name for name, index in linears.items() if index == layer}
            if missing := wanted - _linears_of(layer_file(folder, layer)):
                raise ValueError(f"{layer_file(folder, layer).name} lacks {min(missing)}")
    except (*_DAMAGE, FileNotFoundError, AttributeError) as error:
        say(f"the calibration {folder} is damaged ({_words(error)}); calibrating anew")
        manifest.unlink(missing_ok=True)
        return None
    return found


def resume(
    folder: Path, layers: int, say: Callable[[str], None]
) -> tuple[int, list[Floats], dict[str, int]]:
    """Return how far an earlier start came.

    Args:
        folder: Of one calibration.
        layers: Of the model.
        say: Told what is damaged.

    Returns:
        The first layer that is not done, the hidden states before it, and the layer of each linear
        layer that is done.
    """
    for index in range(layers - 1, 0, -1):
        try:
            with np.load(hidden_file(folder, index)) as file:
                hidden = [file[name] for name in sorted(file.files)]
            linears = {
                name: layer
                for layer in range(index)
                for name in sorted(_linears_of(layer_file(folder, layer)))
            }
        except _DAMAGE as error:
            say(f"{folder} is damaged ({_words(error)}); going back to what is whole")
        except FileNotFoundError:  # the usual: only the last one done has states
            continue
        else:
            return index, hidden, linears
    return 0, [], {}


def hidden_file(folder: Path, layer: int) -> Path:
    """Return the path of the hidden states before a layer."""
    return folder / f"hidden-{layer:03}.npz"


def save_hidden(folder: Path, layer: int, hidden: Sequence[Floats]) -> None:
    """Write the hidden states before a layer, a batch an array."""
    # Named by place, so that the file keeps the order.
    save(hidden_file(folder, layer), {f"{place:06}": batch for place, batch in enumerate(hidden)})


def save(path: Path, arrays: dict[str, Any]) -> None:
    """Write a file of arrays, whole or not at all."""
    # Its own name: another process may be at the same calibration.
    temporary = path.with_name(f"{_UNFINISHED}{os.getpid()}-{path.name}")
    try:
        np.savez(temporary, **arrays)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def finish(folder: Path, manifest: dict[str, Any]) -> Calibration:
    """Write the manifest, without which a calibration is not finished, and drop what led there."""
    temporary = folder / f"{_UNFINISHED}{os.getpid()}-{MANIFEST}"
    temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    temporary.replace(folder / MANIFEST)
    for left in folder.glob("hidden-*.npz"):  # of an earlier start, or of another process
        left.unlink(missing_ok=True)
    return Calibration(folder)


def remove_forsaken(folder: Path) -> None:
    """Remove what processes that were killed had begun to write: a layer takes up to a gigabyte."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime < _FORSAKEN_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def unfinished_prefix() -> str:
    """Return what the name of a temporary folder must begin with to be removed one day."""
    return f"{_UNFINISHED}{os.getpid()}-"


def _linears_of(path: Path) -> set[str]:
    """Names of the linear layers in a file, of which every array is read: zip files have CRCs."""
    with np.load(path) as file:
        for name in file.files:
            file[name]
        return {name.rpartition("/")[0] for name in file.files}


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
