"""The arguments of ``lasttoken-export MODEL``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lasttoken_export._version import __version__
from lasttoken_export.catalogue import load_catalogue
from lasttoken_export.commands.calibration_arguments import (
    add_calibration_arguments,
    calibration_options,
)
from lasttoken_export.commands.quality_arguments import add_accept_quality
from lasttoken_export.export_options import DEFAULT_QUEUE_TOKENS, GRAPHS, RUNTIMES, ExportOptions
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.gate import parse_accepted
from lasttoken_export.quality.quality_options import EXPORT_PAIRS, SETS, QualityOptions
from lasttoken_export.tensorrt.arguments import add_plan_arguments, plan_choices


def export_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands behind ``lasttoken-export``."""
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
    parser.add_argument("--max-queue-tokens", type=int, metavar="TOKENS",
                        help="most tokens waiting, a batch's at least; more is refused "
                        f"({DEFAULT_QUEUE_TOKENS})")  # fmt: skip
    parser.add_argument("--threads", type=int, default=0, metavar="N",
                        help="threads of the CPU runtime; 0: one a core it may use")  # fmt: skip
    parser.add_argument("--streams", type=int, default=0, metavar="N",
                        help="batches that the CPU computes beside each other, each on one thread, "
                        "while as many wait; 1: one at a time; 0: as many as threads, up to 8, "
                        "if a second copy of the weights takes at most a quarter of the free "
                        "memory (%(default)s)")  # fmt: skip
    parser.add_argument("--kept-prefix-tokens", type=int, metavar="TOKENS",
                        help="tokens whose keys and values a causal model's encoder keeps from "
                        "batch to batch on the CPU: what texts begin with again and again, an "
                        "instruction for one; 0: none (1024)")  # fmt: skip
    add_calibration_arguments(parser)
    add_plan_arguments(parser)
    parser.add_argument("--encoder", choices=("python", "native"), default="python",
                        help="native: Triton's own ONNX Runtime or TensorRT backend, ragged "
                        "batches, one text a request (%(default)s)")  # fmt: skip
    parser.add_argument("--native-batch-size", type=int, metavar="N",
                        help="most rows of a native batch; the graph is made for as many of the "
                        "longest (8)")  # fmt: skip
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


def export_options(options: argparse.Namespace, cache_folder: Path | None) -> ExportOptions:
    """Return what the arguments say.

    Args:
        options: Of `export_parser`.
        cache_folder: None for the default.

    Raises:
        InvalidOption: They contradict each other, or a value is none.
    """
    return ExportOptions(
        output=options.output,
        precision=options.precision,
        runtime=options.runtime,
        triton_name=options.name,
        max_length=options.max_length,
        max_queue_tokens=options.max_queue_tokens,
        on_overflow=options.on_overflow,
        intra_op_threads=options.threads,
        streams=options.streams,
        kept_prefix_tokens=options.kept_prefix_tokens,
        plan=plan_choices(options, cache_folder),
        encoder=options.encoder,
        native_batch_size=options.native_batch_size,
        quality=QualityOptions(
            retrieval_set=options.quality_set,
            pairs=options.quality_pairs,
            accepted=parse_accepted(options.accept_quality),
            cache_folder=cache_folder,
        ),
        calibration=calibration_options(options, cache_folder),
    )
