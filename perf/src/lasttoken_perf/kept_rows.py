"""Rows that were measured before a signal or an error are written all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lasttoken_perf.command import as_json, say
from lasttoken_perf.errors import OutputUnwritable
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.output_file import write_output

Finished = Callable[[str], dict[str, Any] | None]


@contextmanager
def rows_kept(output: Path | None, finished: Finished) -> Iterator[None]:
    """Write what was finished to ``--output`` if the block is ended by a signal or an error.

    Enter it inside the blocks that hold servers: not every caller waits until these are stopped.

    Args:
        output: The file; None where the user names none.
        finished: Is told in a few words what ended the block, and returns the result of what was
            finished by then; None where that is nothing.
    """
    try:
        yield
    except Interrupted as interruption:
        if interruption.finished is None:  # else a block within has written it
            interruption.finished = finished(str(interruption))
            kept = _write(output, interruption.finished)
            interruption.kept = f"; {kept}" if kept else ""
        raise
    except Exception as error:  # a mistake of ours must not lose what took an hour
        if kept := _write(output, finished(type(error).__name__)):
            say(kept)
        raise


def after_rows(rows: Sized, result: Callable[[str], dict[str, Any]]) -> Finished:
    """Return what tells `rows_kept` the result of rows that are added one by one.

    Args:
        rows: Those that are finished, whenever it is asked.
        result: Makes the result of them, from the words that say what ended it and after how many.
    """
    return lambda ended_by: result(f"{ended_by} after {len(rows)} rows") if rows else None


def _write(output: Path | None, result: dict[str, Any] | None) -> str:
    """Write a result; returns what the user is told of it."""
    if output is None or result is None:
        return ""
    try:
        write_output(output, as_json(result))
    except OutputUnwritable as error:
        return str(error)
    return f"what was finished before it is in {output}"
