"""The command ``lasttoken-export``: results to stdout, progress to stderr.

``lasttoken-export MODEL`` exports; ``lasttoken-export verify REPOSITORY/MODEL`` compares an export
with fp32, and ``lasttoken-export verify MODEL --golden`` with published scores.

Exit codes: 0 exported, 1 refused or failed, 2 wrong usage, 130 interrupted. Environment:
LASTTOKEN_CACHE is the folder of packaged weights (``~/.cache/lasttoken``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from lasttoken_export._version import __version__
from lasttoken_export.catalogue import CatalogueEntry, load_catalogue
from lasttoken_export.checkpoint import (
    GRAPHS,
    GgufFile,
    ModelFiles,
    SafetensorsFolder,
    TransformersFolder,
    open_model,
)
from lasttoken_export.commands.calibration_arguments import (
    add_calibration_arguments,
    calibration_options,
    layer_progress,
)
from lasttoken_export.commands.verify import (
    add_accept_quality,
    print_quality,
    run_verify,
    text_progress,
    verify_parser,
)
from lasttoken_export.errors import ExportError, InvalidOption
from lasttoken_export.exporter import RUNTIMES, ExportOptions, ExportReport, export_model
from lasttoken_export.folder_contract import entry_of_folder
from lasttoken_export.padded.exporter import export_padded_model
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.export_check import EXPORT_PAIRS, QualityOptions
from lasttoken_export.quality.gate import parse_accepted
from lasttoken_export.quality.sets import SETS
from lasttoken_export.tensorrt.arguments import add_plan_arguments, plan_choices, plan_progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verify = words[:1] == ["verify"]
    options = verify_parser().parse_args(words[1:]) if verify else _parser().parse_args(words)
    cache = os.environ.get("LASTTOKEN_CACHE")
    cache_folder = Path(cache) if cache else None
    try:
        if verify:
            return run_verify(options, find_entry, cache_folder)
        return _export(options, cache_folder)
    except InvalidOption as error:
        print(f"lasttoken-export: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"lasttoken-export: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lasttoken-export",
        description="Export a text-embedding model as a self-contained Triton model repository.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="catalogue name, hub id (owner/name), Hugging Face folder or GGUF file; in the "
        f"catalogue: {', '.join(sorted(load_catalogue()))}",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR",
                        help="Triton model repository; other models in it stay")  # fmt: skip
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32",
                        help="number format; see docs/precisions.md (%(default)s)")  # fmt: skip
    parser.add_argument("--runtime", choices=tuple(RUNTIMES), default="onnxruntime")
    parser.add_argument("--graph", choices=GRAPHS, default="auto",
                        help="packed: no padding is computed; padded: by optimum, for any other "
                        "architecture; auto: packed where that is known (%(default)s)")  # fmt: skip
    parser.add_argument("--like", metavar="NAME",
                        help="catalogue entry whose tokenizer contract and prompts a folder, a "
                        "hub id or a GGUF file is served by")  # fmt: skip
    parser.add_argument("--name", metavar="TRITON_NAME", help="name of the ensemble (the model's)")
    parser.add_argument("--revision", help="revision of a hub id, in place of the pinned one")
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="longest text (model's)")
    parser.add_argument("--on-overflow", choices=("truncate", "refuse"), default="truncate",
                        help="what happens to a longer text (%(default)s)")  # fmt: skip
    parser.add_argument("--max-queue-tokens", type=int, default=65536, metavar="TOKENS",
                        help="most tokens waiting; more is refused (%(default)s)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, metavar="N",
                        help="threads of the CPU runtime; 0: one a core it may use")  # fmt: skip
    add_calibration_arguments(parser)
    add_plan_arguments(parser)
    parser.add_argument("--encoder", choices=("python", "native"), default="python",
                        help="native: Triton's own ONNX Runtime or TensorRT backend, ragged "
                        "batches, one text a request (%(default)s)")  # fmt: skip
    parser.add_argument("--native-batch-size", type=int, default=8, metavar="N",
                        help="most rows of a native batch; the graph is made for as many of the "
                        "longest (%(default)s)")  # fmt: skip
    parser.add_argument("--quality-set", default="python", metavar="SET",
                        help=f"text on which the vectors are compared with fp32's: "
                        f"{', '.join(SETS)} or a file of JSON lines with query and document "
                        "(%(default)s)")  # fmt: skip
    parser.add_argument("--quality-pairs", type=int, default=EXPORT_PAIRS, metavar="N",
                        help="pairs of it; 0: compare nothing, and say so on the card "
                        "(%(default)s)")  # fmt: skip
    add_accept_quality(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _export(options: argparse.Namespace, cache_folder: Path | None) -> int:
    quality = QualityOptions(
        retrieval_set=options.quality_set,
        pairs=options.quality_pairs,
        accepted=parse_accepted(options.accept_quality),
        cache_folder=cache_folder,
    )
    known = load_catalogue().get(options.model)
    checkpoint = open_model(
        known.source if known else options.model,
        revision=options.revision,
        cache_folder=cache_folder,
        graph=options.graph,
    )
    entry = find_entry(options.model, options.like, checkpoint)
    note = f" ({entry.licence.note})" if entry.licence.note else ""
    _say(f"{entry.name}: licence {entry.licence.id}{note}")
    chosen = ExportOptions(
        output=options.output,
        precision=options.precision,
        runtime=options.runtime,
        triton_name=options.name,
        max_length=options.max_length,
        max_queue_tokens=options.max_queue_tokens,
        on_overflow=options.on_overflow,
        intra_op_threads=options.threads,
        plan=plan_choices(options, cache_folder),
        encoder=options.encoder,
        native_batch_size=options.native_batch_size,
        quality=quality,
        calibration=calibration_options(options, cache_folder),
    )
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
            )
    _print_report(report, as_json=options.json)
    return 0


def find_entry(model: str, like: str | None, checkpoint: ModelFiles) -> CatalogueEntry:
    """Return the entry that decides how a model is served.

    Args:
        model: Catalogue name, hub id, folder or file.
        like: Name of an entry, or None.
        checkpoint: The opened model; its own files decide where the catalogue has no entry.

    Raises:
        InvalidOption: Nothing says how the model is served.
        AmbiguousModel: Its files do not say it clearly.
    """
    catalogue = load_catalogue()
    by_hub_id = {
        entry.source["id"]: entry
        for entry in catalogue.values()
        if entry.source.get("kind") == "hub"
    }
    found = catalogue.get(like) if like else catalogue.get(model) or by_hub_id.get(model)
    if found is not None:
        return found
    if like is None and isinstance(checkpoint, GgufFile):
        names = {_plain(name) for name in checkpoint.names_of_model()}
        for hub_id, entry in by_hub_id.items():
            if _plain(hub_id.rpartition("/")[2]) in names:
                return entry
    if like is None and isinstance(checkpoint, SafetensorsFolder | TransformersFolder):
        return entry_of_folder(checkpoint.folder, checkpoint)
    raise InvalidOption(
        f"{like or model!r} is not in the catalogue; say which model's tokenizer contract and "
        f"prompts it is served by: --like with one of {', '.join(sorted(catalogue))}"
    )


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _plain(name: str) -> str:
    """A model's name without case and punctuation, in which spellings differ."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """Show bytes written and time left, on a terminal only."""
    with tqdm(unit="B", unit_scale=True, desc="writing weights", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _print_report(report: ExportReport, *, as_json: bool) -> None:
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
    print(f"serve it: lasttoken serve {report.repository}")


if __name__ == "__main__":
    sys.exit(main())
