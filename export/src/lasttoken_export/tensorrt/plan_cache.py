"""Plans kept between exports, by everything that decides their bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from lasttoken_export.tensorrt.plan_builder import PlanOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPlan:
    """A plan in the cache.

    Attributes:
        path: The plan.
        build_seconds: Time that its build took.
    """

    path: Path
    build_seconds: float


_BUILD = 2
"""Number of what `plan_builder.configure` asks for beside the options; a change makes it larger."""


def plan_key(graph: Path, options: PlanOptions) -> str:
    """Return a hash of the graph with its weights, the library, the target and the profile.

    Args:
        graph: Path of the ONNX file; its external data lies beside it.
        options: What the plan is built for.
    """
    digests = []
    for path in (graph, graph.with_name(f"{graph.name}.data")):
        if path.exists():
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    parts = {
        "build": _BUILD,
        "graph": digests,
        "runtime": options.library.runtime,
        "version": options.library.version,
        "target": asdict(options.target),
        "precision": options.precision,
        "profile": options.profile.shapes(),
        "weight_streaming": options.weight_streaming,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_plan(folder: Path, key: str) -> CachedPlan | None:
    """Return a plan stored under a key; None where there is none, or not a whole one."""
    path, record = folder / f"{key}.plan", folder / f"{key}.json"
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        if path.stat().st_size != known["plan_bytes"]:
            return None
        return CachedPlan(path=path, build_seconds=float(known["build_seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store_plan(folder: Path, key: str, plan: Path, *, build_seconds: float) -> None:
    """Keep a plan; a hard link where the file system allows, else a copy.

    Args:
        folder: The cache; made if need be.
        key: Of `plan_key`.
        plan: The plan, which nobody writes to any more.
        build_seconds: Time that its build took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {"plan_bytes": plan.stat().st_size, "build_seconds": build_seconds}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".storing.") as temporary:
        link_or_copy(plan, Path(temporary) / "plan")
        (Path(temporary) / "json").write_text(json.dumps(record), encoding="utf-8")
        # The record last: without it the plan is not found.
        (Path(temporary) / "plan").replace(folder / f"{key}.plan")
        (Path(temporary) / "json").replace(folder / f"{key}.json")


def link_or_copy(source: Path, destination: Path) -> None:
    """Make a second name of a file, or a copy on another file system."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
