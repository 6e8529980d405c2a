"""A file that a result goes to: tried before the work, and never the end of the result."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from lasttoken_perf.errors import OutputUnwritable


def check_output(option: str, file: Path) -> None:
    """Check that a file can be written, before the work; nothing is made or changed.

    Args:
        option: Which argument names it, such as ``--output``.
        file: The file.

    Raises:
        OutputUnwritable: It cannot.
    """
    try:
        if file.is_dir():
            raise OutputUnwritable(f"{option} is {str(file)!r}, a folder; name a file")
        if file.is_file():
            with file.open("ab"):
                pass
        elif file.exists():  # a pipe, a terminal: opening one may wait for its reader
            if not os.access(file, os.W_OK):
                raise PermissionError("no permission")
        else:
            _try_to_write(_nearest(file.absolute().parent))
    except OSError as error:
        raise OutputUnwritable(
            f"{option} is {str(file)!r}, which cannot be written "
            f"({error.strerror or error}); choose another"
        ) from None


def check_folder(option: str, folder: Path) -> None:
    """Check that a folder can be made, or written into, before the work; nothing is made.

    Args:
        option: Which argument names it, such as ``--folder``.
        folder: The folder.

    Raises:
        OutputUnwritable: It cannot.
    """
    nearest = _nearest(folder.absolute())
    try:
        _try_to_write(nearest)
    except OSError as error:
        raise OutputUnwritable(
            f"{option} is {str(folder)!r}, and {str(nearest)!r} cannot be written into "
            f"({error.strerror or error}); choose another"
        ) from None


def write_output(file: Path, text: str) -> None:
    """Write a file, in a folder that is made if need be.

    Raises:
        OutputUnwritable: It cannot be written; the text is kept where the message says.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputUnwritable(
            f"{str(file)!r} cannot be written ({error.strerror or error}); {_rescue(text, file)}"
        ) from None


def _nearest(folder: Path) -> Path:
    """Return the folder, or what exists of the way to it."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


def _rescue(text: str, file: Path) -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lasttoken-perf.", suffix=file.suffix, encoding="utf-8", delete=False
        ) as kept:
            kept.write(text)
    except OSError:
        sys.stdout.write(text)
        return "neither can a temporary file: what was to be in it is on stdout"
    return f"what was to be in it is in {kept.name}"
