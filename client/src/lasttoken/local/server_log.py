"""The part of Triton's log that tells why a server failed.

The last lines alone do not: after an error Triton prints tables of its options and unloads models.
"""

from __future__ import annotations

import re

_ERROR = re.compile(r"^(E\d{4} |error: )")
_TABLE = re.compile(r"^[|+]")
_HARMLESS = "CudaDriverHelper has not been initialized"  # every machine without a GPU says so
_WIDEST = 1000


def explain(log: str, *, error_lines: int = 10, last_lines: int = 20) -> str:
    """Pick the errors and the last lines of a log, without the tables.

    Args:
        log: The whole log.
        error_lines: How many errors at most; the first ones, as the others follow from them.
        last_lines: How many of the last lines at most.
    """
    lines = [line[:_WIDEST] for line in log.splitlines() if line.strip() and not _TABLE.match(line)]
    tail = lines[-last_lines:]
    before = lines[: len(lines) - len(tail)]
    errors = [line for line in before if _ERROR.match(line) and _HARMLESS not in line]
    return "\n".join([*errors[:error_lines], *tail]) or "(the log is empty)"
