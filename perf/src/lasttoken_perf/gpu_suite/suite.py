"""Runs the steps one after the other and puts their results into one file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import InvalidSuite
from lasttoken_perf.gpu_suite.derived import ratios, with_derived
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import CATALOGUE_NAMES, SHAPES, shape_account
from lasttoken_perf.gpu_suite.step_process import DONE, run_step, run_step_here
from lasttoken_perf.gpu_suite.token_rows import CORPORA, QUERIES, make_rows
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.machine import describe_machine
from lasttoken_perf.results import Row, make_result, read_result
from lasttoken_perf.tables import in_short

_MODULES = "lasttoken_perf.gpu_suite.steps"
STEPS: Mapping[str, str] = {
    "ceilings": f"{_MODULES}.ceilings",
    "parity": f"{_MODULES}.parity",
    "torch": f"{_MODULES}.torch_reference",
    "export": f"{_MODULES}.export",
    "onnxruntime": f"{_MODULES}.onnxruntime",
    "tensorrt": f"{_MODULES}.tensorrt",
    "sentence-transformers": f"{_MODULES}.sentence_transformers",
    "served": f"{_MODULES}.served",
}
"""Modules by the steps' names, in their order; parity makes what the later ones are held to."""

_PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime-gpu", "flash-attn",
             "tensorrt", "tensorrt-rtx-cu13", "cuda-bindings")  # fmt: skip
_NOT_COMPARED = ("work_folder",)


def run_suite(
    settings: SuiteSettings,
    names: Sequence[str],
    *,
    limit_s: float,
    output: Path | None,
    say: Callable[[str], None],
    together: bool = False,
    steps: Mapping[str, str] = STEPS,
) -> dict[str, Any]:
    """Run steps and return the result, which is also written after each of them.

    Args:
        settings: What is measured.
        names: Which of the steps, in any order.
        limit_s: Longest time of a step, in seconds.
        output: Result file; what other steps left in it is kept. None to write nothing.
        say: Told what is being done.
        together: Whether they run in this process, for a trial, and not each in one of its own.
        steps: Modules by name.

    Raises:
        InvalidSuite: The file holds figures of other settings or another machine.
        MalformedResult: The file holds no result.
    """
    outcomes = _earlier(output, settings)
    result: dict[str, Any] = {}
    for name in (name for name in steps if name in names):
        say(f"{name} ...")
        try:
            outcome = (
                run_step_here(steps[name], settings)
                if together
                else run_step(
                    steps[name], settings, limit_s=limit_s, folder=settings.run_folder / "steps"
                )
            )
        except Interrupted as interruption:
            if output is not None and outcomes:
                interruption.kept = f"; in {output}: {', '.join(outcomes)}"
            raise
        reason = in_short(outcome.reason)
        say(f"{name}: {outcome.status} in {outcome.seconds:.1f} s {reason}".rstrip())
        outcomes[name] = outcome.to_json()
        result = assemble(outcomes, settings)
        if output is not None:
            _write(output, result)
    return result or assemble(outcomes, settings)


def assemble(outcomes: Mapping[str, Mapping[str, Any]], settings: SuiteSettings) -> dict[str, Any]:
    """Return the result that the steps' outcomes make.

    A step without a result has one row that says why, under ``discarded``.

    Args:
        outcomes: `StepOutcome.to_json` by the step's name.
        settings: What they were told.
    """
    corpora = {name: make_rows(settings, name) for name in (*CORPORA, QUERIES)}
    attended = {name: rows.lengths.attended for name, rows in corpora.items()}
    found: list[Row] = []
    for name, outcome in outcomes.items():
        rows = outcome["rows"]
        if outcome["status"] != DONE:
            rows = [{"subject": name, "discarded": f"{outcome['status']}: {outcome['reason']}"}]
        found += rows
    account = shape_account(settings.shape)
    result = make_result(
        kind="gpu",
        what=f"random weights of the shape {settings.shape!r} on {settings.device}: ceilings, "
        "parity, engines, peers and a served model",
        rows=with_derived(found, settings, attended),
        model={
            "name": CATALOGUE_NAMES.get(settings.shape, settings.shape),
            "shape": settings.shape,
            "parameters": account.parameters,
            "dimensions": account.config.hidden_size,
            "precision": settings.precision,
            "config": dict(SHAPES[settings.shape]),
        },
        workload={name: rows.describe() for name, rows in corpora.items()},
        settings=settings.to_json(),
        checks={name: outcome["checks"] for name, outcome in outcomes.items()},
        packages=_PACKAGES,
    )
    return {**result, "ratios": ratios(result["rows"]), "steps": dict(outcomes)}


def why_not(result: Mapping[str, Any]) -> dict[str, str]:
    """Return what has no figure, and why: steps, and subjects within a step."""
    return {row["subject"]: row["discarded"] for row in result["rows"] if "discarded" in row}


def _earlier(output: Path | None, settings: SuiteSettings) -> dict[str, Any]:
    """Return the outcomes that a result file holds already."""
    if output is None or not output.exists():
        return {}
    result = read_result(output)
    there, here = result.get("settings", {}), settings.to_json()
    for name in here.keys() - set(_NOT_COMPARED):
        if there.get(name) != here[name]:
            raise InvalidSuite(
                f"{output} holds figures with {name} {there.get(name)!r}, not {here[name]!r}; "
                "name another file with --output, or give the same settings"
            )
    machine = describe_machine()
    gpus = [[gpu["name"] for gpu in m["gpus"]] for m in (result["machine"], machine)]
    if gpus[0] != gpus[1] or result["machine"]["processor"] != machine["processor"]:
        raise InvalidSuite(
            f"{output} holds figures of {gpus[0] or result['machine']['processor']}, this machine "
            f"has {gpus[1] or machine['processor']}; name another file with --output"
        )
    outcomes: dict[str, Any] = result["steps"]
    return outcomes


def _write(output: Path, result: Mapping[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = output.with_name(f"{output.name}.{os.getpid()}")
    scratch.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    scratch.replace(output)  # never half a file, however the suite ends
