"""``lasttoken-export MODEL``: one model as a Triton model repository."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lasttoken_export.catalogue import load_catalogue
from lasttoken_export.checkpoint import TransformersFolder, open_model
from lasttoken_export.commands.calibration_arguments import layer_progress
from lasttoken_export.commands.quality_arguments import text_progress
from lasttoken_export.commands.quality_output import print_quality
from lasttoken_export.export_options import ExportOptions
from lasttoken_export.model_entry import check_like, find_entry
from lasttoken_export.quality.sets import open_set
from lasttoken_export.staging import remove_stale_staging
from lasttoken_export.tensorrt.arguments import plan_progress
from lasttoken_export.tensorrt.library import PLAN_RUNTIMES

if TYPE_CHECKING:
    from lasttoken_export.exporter import ExportReport


def run_export(
    options: argparse.Namespace, chosen: ExportOptions, cache_folder: Path | None
) -> int:
    """Run the command; returns its exit code.

    Args:
        options: Of `export_parser`.
        chosen: Of `export_options`.
        cache_folder: None for the default.

    Raises:
        ExportError: Something is wrong, or a gate is missed.
    """
    check_like(options.model, options.like)
    _check_before_download(chosen)
    known = load_catalogue().get(options.model)
    checkpoint = open_model(
        known.source if known else options.model,
        revision=options.revision,
        cache_folder=cache_folder,
        graph=options.graph,
    )
    entry = find_entry(options.model, options.like, checkpoint)
    note = f" ({entry.licence.note})" if entry.licence.note else ""
    like = f"; served like {entry.name}" if entry.weights_of else ""
    _say(f"{entry.model_name}: licence {entry.licence.id}{note}{like}")
    # Behind what is wrong with the model's name and files: they take seconds to import.
    from lasttoken_export.exporter import export_model
    from lasttoken_export.padded.exporter import export_padded_model

    for line in remove_stale_staging(chosen.output):
        _say(line)
    with (
        _progress_bar() as on_bytes,
        plan_progress() as on_plan,
        text_progress() as on_texts,
        layer_progress() as on_layer,
    ):
        if isinstance(checkpoint, TransformersFolder):
            reason = "asked for" if options.graph == "padded" else "no packed graph is known of it"
            _say(f"{checkpoint.config.architecture}: optimum writes a padded graph ({reason})")
            report = export_padded_model(
                checkpoint,
                entry,
                chosen,
                cache_folder=cache_folder,
                announce=_say,
                on_bytes=on_bytes,
            )
        else:
            report = export_model(
                checkpoint,
                entry,
                chosen,
                on_bytes=on_bytes,
                on_plan=on_plan,
                on_texts=on_texts,
                on_layer=on_layer,
                say=_say,
            )
    served_by = f"serve it: lasttoken serve {report.repository}"
    if chosen.encoder == "native":
        backend = "tensorrt" if chosen.runtime == "tensorrt" else "onnxruntime"
        served_by = (
            f"serve it: tritonserver --model-repository {report.repository}, of an installation "
            f"with Triton's {backend} backend (lasttoken serve has Python's only)"
        )
    _print_report(report, served_by, as_json=options.json)
    return 0


def _check_before_download(chosen: ExportOptions) -> None:
    """Check what needs no checkpoint: that may be of gigabytes.

    Raises:
        PlanError: The library is missing, or the target does not suit.
        InvalidOption: A file of texts is none.
        SourceUnavailable: The texts of the comparison cannot be fetched.
    """
    if chosen.runtime in PLAN_RUNTIMES:
        from lasttoken_export.tensorrt.plan_step import find_library_and_target

        find_library_and_target(chosen.runtime, chosen.precision, chosen.plan)
    if chosen.calibration is not None and chosen.calibration.texts is not None:
        from lasttoken_export.quantisation.texts import read_texts

        read_texts(chosen.calibration.texts)
    if chosen.precision != "fp32" and chosen.quality.pairs:
        open_set(
            chosen.quality.retrieval_set,
            pairs=chosen.quality.pairs,
            cache_folder=chosen.quality.cache_folder,
        )


def _say(words: str) -> None:
    print(words, file=sys.stderr)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Show bytes written and time left, on a terminal only."""
    with tqdm(unit="B", unit_scale=True, desc="writing weights", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _print_report(report: ExportReport, served_by: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(report), "repository": str(report.repository)}))
        return
    print(
        f"{report.triton_name}: {report.weight_bytes / 1e6:.0f} MB of weights written to "
        f"{report.repository} in {report.seconds:.1f} s"
    )
    for name, value in report.checks.items():
        print(f"  {name}: {value}")
    print_quality(report.triton_name, report.quality)
    print(served_by)
