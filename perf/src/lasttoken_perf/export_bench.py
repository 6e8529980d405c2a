"""The export of a full-size model on random weights of its shape: time, peak memory, bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lasttoken_export.precisions import PRECISIONS, find_precision
from lasttoken_export.quality.quality_options import EXPORT_PAIRS
from lasttoken_perf.errors import FolderInUse, NotEnoughRoom, PeerFailed
from lasttoken_perf.random_checkpoint import write_random_checkpoint
from lasttoken_perf.random_model import config_of_layers, write_sentencepiece
from lasttoken_perf.results import make_result

PEAK_MEMORY_BAR_BYTES = 3_000_000_000
"""Of an export that is not calibrated: calibration adds a layer in float32 and square matrices of
its inputs."""
_BYTES_NEEDED = 32_000_000_000  # the checkpoint, the graph, and some slack


def run_export_bench(
    folder: Path,
    *,
    precision: str = "fp16",
    layers: int | None = None,
    quality_pairs: int = EXPORT_PAIRS,
    cache_folder: Path | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Write the checkpoint, export it in a process of its own, and remove everything again.

    A calibrated precision is calibrated on the texts shipped with the exporter.

    Args:
        folder: Work folder; created, and removed in the end.
        precision: Of the export.
        layers: Layers of the checkpoint; None for all 32.
        quality_pairs: Pairs of texts on which the export is compared with fp32.
        cache_folder: Where the tokenizer is kept; None for the default.
        say: Told what is being done.

    Returns:
        What the JSON file holds; ``peak_memory_bytes`` is the largest resident size of the
        exporter, pages of mapped files included; ``peak_memory_bar_bytes`` is None for a precision
        that is calibrated.

    Raises:
        InvalidOption: ONNX Runtime's CPU provider cannot run the precision.
        UnknownWorkload: The model has fewer layers.
        FolderInUse: The work folder is there.
        NotEnoughRoom: The disk has too little room.
        PeerFailed: The exporter failed.
    """
    find_precision(precision, "onnxruntime")  # before 14 GB are written
    config = config_of_layers(layers, option="--layers")
    if folder.exists():
        raise _in_use(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < _BYTES_NEEDED:
        raise NotEnoughRoom(
            f"{folder.parent} has {free / 1e9:.0f} GB free, {_BYTES_NEEDED / 1e9:.0f} GB are "
            "needed; name another folder with --folder"
        )
    try:
        folder.mkdir()
    except FileExistsError:
        raise _in_use(folder) from None
    try:
        count = config["num_hidden_layers"]
        say(f"writing a random checkpoint of {count} layers")
        parameters = write_random_checkpoint(folder / "checkpoint", config, seed=1, say=say)
        write_sentencepiece(folder / "checkpoint", cache_folder=cache_folder)
        say(f"exporting it as {precision}")
        started_s = time.perf_counter()
        report, peak_bytes = _export(folder, precision, quality_pairs)
        seconds = time.perf_counter() - started_s
        written = [path for path in (folder / "repository").rglob("*") if path.is_file()]
        made = make_result(
            kind="export",
            what="export of a random checkpoint of SFR-Embedding-Mistral's shape",
            rows=[],
            model={"name": "sfr-embedding-mistral", "precision": precision},
        )
        return made | {
            "precision": precision,
            "layers": count,
            "quality_pairs": quality_pairs,
            "parameters": parameters,
            "seconds": seconds,
            "peak_memory_bytes": peak_bytes,
            "peak_memory_bar_bytes": (
                None if PRECISIONS[precision].is_calibrated else PEAK_MEMORY_BAR_BYTES
            ),
            "bytes_written": sum(path.stat().st_size for path in written),
            "report": report,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> FolderInUse:
    return FolderInUse(
        f"{folder} is there: another run works in it, or one was killed; remove it, or name "
        "another folder with --folder"
    )


def _export(folder: Path, precision: str, quality_pairs: int) -> tuple[dict[str, Any], int]:
    command = [
        sys.executable, "-m", "lasttoken_export.cli", str(folder / "checkpoint"),
        "--like", "sfr-embedding-mistral", "--precision", precision, "--json",
        "--output", str(folder / "repository"), "--quality-pairs", str(quality_pairs),
    ]  # fmt: skip
    # A cache of its own: vectors of fp32 that a run before has left would make it look faster.
    environment = {**os.environ, "LASTTOKEN_CACHE": str(folder / "cache")}
    with (
        (folder / "report.json").open("w+") as output,
        subprocess.Popen(command, stdout=output, env=environment) as process,
    ):
        peak_bytes = 0
        try:
            while process.poll() is None:
                peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
                time.sleep(0.05)
        finally:
            process.kill()  # nothing where it has ended; an interrupted one writes in the folder
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise PeerFailed(f"the exporter ended with {process.returncode}")
    report: dict[str, Any] = json.loads(text)
    return report, peak_bytes


def _peak_bytes(pid: int) -> int:
    """Largest resident size so far; 0 when the process is gone.

    Of the process image only: rusage also counts the parent that it was forked from.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
