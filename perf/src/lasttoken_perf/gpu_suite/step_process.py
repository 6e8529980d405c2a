"""A step in a process of its own: what it breaks, leaks or waits for is its own affair.

The child writes its answer to a file; whatever the libraries print goes to the step's log.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lasttoken_export.errors import ExportError
from lasttoken_perf.errors import PerfError
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepUnavailable
from lasttoken_perf.results import Row

DONE, FAILED, UNAVAILABLE, TIMED_OUT = "done", "failed", "unavailable", "timed out"
_LAST_WORDS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What became of a step.

    Attributes:
        status: `DONE`, `FAILED`, `UNAVAILABLE` or `TIMED_OUT`.
        seconds: Wall time, start of its process included.
        reason: Why there is no result; empty where there is.
        rows: Its rows.
        checks: What it verified.
    """

    status: str
    seconds: float
    reason: str
    rows: list[Row]
    checks: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def run_step(module: str, settings: SuiteSettings, *, limit_s: float, folder: Path) -> StepOutcome:
    """Run a step's module; never raises for what happens in it.

    Args:
        module: Has ``run(settings) -> StepReport``.
        settings: What it is told.
        limit_s: Its process group is killed after so many seconds.
        folder: For its answer and its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = module.rpartition(".")[2]
    answer_file, log_file = folder / f"{name}.json", folder / f"{name}.log"
    answer_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", __name__, module, json.dumps(settings.to_json()),
               str(answer_file)]  # fmt: skip
    started_s = time.perf_counter()
    with log_file.open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_group(process)  # also what a step that died has left running
        seconds = time.perf_counter() - started_s
        log.seek(0)
        words = log.read()[-_LAST_WORDS:].strip()
    if code is None:
        return _without_result(TIMED_OUT, seconds, f"not done after {limit_s:g} s; {words}")
    if code:
        return _without_result(FAILED, seconds, f"its process ended with {code}: {words}")
    answer: Mapping[str, Any] = json.loads(answer_file.read_text(encoding="utf-8"))
    return StepOutcome(seconds=seconds, **answer)


def run_step_here(module: str, settings: SuiteSettings) -> StepOutcome:
    """Run a step in this process: quicker to start, for a trial of small shapes.

    What it raises is reported all the same; what it does to the process is not contained.
    """
    started_s = time.perf_counter()
    try:
        answer = _answer(module, settings)
    except Exception as error:  # noqa: BLE001 - one step must not end the suite
        reason = f"{type(error).__name__}: {error}"
        return _without_result(FAILED, time.perf_counter() - started_s, reason)
    return StepOutcome(seconds=time.perf_counter() - started_s, **answer)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _without_result(status: str, seconds: float, reason: str) -> StepOutcome:
    return StepOutcome(status=status, seconds=seconds, reason=reason, rows=[], checks={})


def main() -> None:
    """Run the step that the arguments name, and write its answer."""
    module, settings, answer_file = sys.argv[1:]
    answer = _answer(module, SuiteSettings.from_json(json.loads(settings)))
    Path(answer_file).write_text(json.dumps(answer), encoding="utf-8")


def _answer(module: str, settings: SuiteSettings) -> dict[str, Any]:
    none: dict[str, Any] = {"rows": [], "checks": {}}
    try:
        report = importlib.import_module(module).run(settings)
    except StepUnavailable as error:
        return {"status": UNAVAILABLE, "reason": str(error), **none}
    except ImportError as error:
        return {"status": UNAVAILABLE, "reason": f"not installed here: {error}", **none}
    except (PerfError, ExportError) as error:
        return {"status": FAILED, "reason": f"{type(error).__name__}: {error}", **none}
    return {"status": DONE, "reason": "", **asdict(report)}


if __name__ == "__main__":
    main()
