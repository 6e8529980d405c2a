"""Harm to files: changed weights, a full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lasttoken import RepositoryInvalid
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import ExportError
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.faults.stage import Finding, Stage


def corrupted_weights(stage: Stage) -> Finding:
    """Flip one bit of the weights; then swap the tokenizer for another file."""
    seen = []
    for name, change in (
        (f"{stage.model}_encoder/1/encoder.onnx.data", _flip_a_bit),
        (f"{stage.model}_tokenizer/1/tokenizer.json", lambda path: path.write_text("{}")),
    ):
        with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
            copy = Path(folder) / "repository"
            shutil.copytree(stage.repository, copy)
            change(copy / name)
            try:
                LocalTriton(copy, cache_folder=stage.cache_folder).start()
            except RepositoryInvalid as error:
                seen.append(str(error).partition(": sha256")[0].rpartition(": ")[2])
            else:
                raise WrongAnswer(f"a server started with a changed {name}")
    return Finding(
        fault="one bit of the weights flipped; the tokenizer swapped",
        seen=f"RepositoryInvalid names the file ({', '.join(Path(s).name for s in seen)}); "
        "nothing is loaded",
        lost="nothing; such a server serves nothing",
        impact=None,
    )


def full_disk(stage: Stage) -> Finding:
    """Export onto a file system that is too small, over a model that is there."""
    with tempfile.TemporaryDirectory(prefix="lasttoken-faults.") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            return Finding(fault="a full disk during an export", impact=None, lost="-",
                           seen=f"not tried: {done.stderr.strip()}")  # fmt: skip
        try:
            return _export_onto(Path(folder), stage)
        finally:
            subprocess.run(["umount", folder], check=True, capture_output=True)


def _export_onto(folder: Path, stage: Stage) -> Finding:
    there = folder / stage.model / "config.pbtxt"
    there.parent.mkdir(parents=True)
    there.write_text("what was there")
    entry = catalogue_entry(stage.catalogue_name)
    checkpoint = open_checkpoint(entry.source, cache_folder=stage.cache_folder)
    try:
        export_model(checkpoint, entry, ExportOptions(output=folder))
    except (ExportError, OSError) as error:
        left = sorted(path.name for path in folder.iterdir())
        if left != [stage.model] or there.read_text() != "what was there":
            raise WrongAnswer(f"the failed export left {left}") from None
        return Finding(
            fault="a full disk during an export",
            seen=f"{type(error).__name__}, told before a byte is written; the repository stays as "
            "it was",
            lost="nothing",
            impact=None,
        )
    raise WrongAnswer("an export fitted into 96 MB")


def _flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
