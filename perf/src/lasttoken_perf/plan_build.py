"""Builds one plan in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lasttoken_export.tensorrt.library import load_library
from lasttoken_export.tensorrt.plan_builder import PlanOptions, build_plan
from lasttoken_export.tensorrt.plan_contents import read_plan
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.tensorrt.target import find_target
from lasttoken_perf.errors import PeerFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBuild:
    """What is to be built.

    Attributes:
        graph: Path of encoder.onnx.
        precision: Its precision.
        compute_capability: Target, 89 for SM89.
        max_batch_tokens: Of the profile, as are the next two.
        max_rows: Most rows.
        max_length: Longest row.
    """

    graph: str
    precision: str
    compute_capability: int
    max_batch_tokens: int = 8192
    max_rows: int = 256
    max_length: int = 4096


def run_plan_build(build: PlanBuild) -> dict[str, Any]:
    """Build in a new process; the plan is removed again.

    Returns:
        ``seconds``, ``plan_bytes``, ``peak_bytes``, ``constant_bytes`` by type, ``products`` by
        type, ``fused_attentions``.

    Raises:
        PeerFailed: The process ended with an error.
    """
    command = [sys.executable, "-m", "lasttoken_perf.plan_build", json.dumps(asdict(build))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["no output"])[-1]
        raise PeerFailed(f"the plan in {build.precision} could not be built: {last_line}")
    built: dict[str, Any] = json.loads(process.stdout)
    return built


def main() -> None:
    """Build what the argument describes; print what it was as JSON."""
    build = PlanBuild(**json.loads(sys.argv[1]))
    library = load_library("tensorrt-rtx")
    plan = Path(build.graph).with_suffix(".plan")
    options = PlanOptions(
        library=library,
        target=find_target(library, build.compute_capability),
        precision=build.precision,
        profile=PlanProfile(
            max_batch_tokens=build.max_batch_tokens,
            max_rows=build.max_rows,
            max_length=build.max_length,
            usual_batch_tokens=build.max_batch_tokens,
            shares_prefixes=True,
        ),
    )
    report = build_plan(Path(build.graph), plan, options)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    contents = read_plan(plan)
    plan.unlink()
    found = {
        "seconds": report.seconds,
        "plan_bytes": report.plan_bytes,
        "peak_bytes": int(peak[1]) * 1024,
        **asdict(contents),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
