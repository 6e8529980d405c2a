"""Size, build time and memory of plans by precision, and what SFR-Embedding-Mistral's would be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import Checkpoint, open_checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import UnsupportedDevice
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.tensorrt.library import load_library
from lasttoken_export.tensorrt.target import (
    TargetDevice,
    check_precision_on_target,
    find_target,
)
from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.kept_rows import after_rows, rows_kept
from lasttoken_perf.plain_calibration import PlainCalibration
from lasttoken_perf.plan_build import PlanBuild, run_plan_build
from lasttoken_perf.random_checkpoint import SFR_CONFIG, write_random_checkpoint
from lasttoken_perf.results import Row, make_result

GGUF_SIZES_GB = {"Q3_K_M": 3.52, "Q4_K_M": 4.37, "Q5_K_M": 5.13, "Q8_0": 7.70, "F16": 14.5}
"""Published sizes of SFR-Embedding-Mistral's GGUF files, in 1e9 bytes."""

SFR = "sfr-embedding-mistral, random weights"
_SFR_LAYERS = SFR_CONFIG["num_hidden_layers"]
_TOKENS = 8192


def run_plan_sizes(
    *,
    models: Sequence[str],
    precisions: Sequence[str],
    compute_capability: int,
    cache_folder: Path | None,
    say: Callable[[str], None],
    output: Path | None = None,
) -> dict[str, Any]:
    """Build the plans one after the other; what the target cannot run is left out, and says so.

    Args:
        models: ``smollm2`` (whole) and ``sfr`` (one layer, and two, on random weights).
        precisions: Of `PRECISIONS`.
        compute_capability: Target, 89 for SM89.
        cache_folder: Where weights are kept; None for the default.
        say: Told what is being done.
        output: Gets the rows that were finished, should a signal or an error end the run.

    Returns:
        The result; ``rows`` has one row a plan.

    Raises:
        MissingLibrary: TensorRT-RTX is not installed.
        UnsupportedDevice: It does not build for the target, or no precision runs there.
        PeerFailed: A plan cannot be built, or its linear layers are not in its precision.
    """
    rows: list[Row] = []
    target = find_target(load_library("tensorrt-rtx"), compute_capability)
    refused = {name: why for name in precisions if (why := _why_not(name, target))}
    if len(refused) == len(set(precisions)):
        raise UnsupportedDevice(next(iter(refused.values())))

    def result(interrupted: str | None = None) -> dict[str, Any]:
        return make_result(
            kind="plans",
            what="size, build time and peak memory of TensorRT-RTX plans by precision, built "
            "without a GPU, on scales without calibration",
            rows=rows,
            settings={
                "compute_capability": compute_capability,
                "max_batch_tokens": _TOKENS,
                "gguf_sizes_gb": GGUF_SIZES_GB,
            },
            checks={
                "every linear layer and attention": "of its precision, and fused, by the listing"
            },
            packages=["tensorrt-rtx-cu13", "onnx-ir"],
            interrupted=interrupted,
        )

    with (
        tempfile.TemporaryDirectory(prefix="lasttoken-plans.") as folder,
        rows_kept(output, after_rows(rows, result)),
    ):
        for subject, checkpoint in _checkpoints(models, Path(folder), cache_folder, say):
            layers = checkpoint.config.num_layers
            for precision in dict.fromkeys(precisions):
                say(f"{subject}, {layers} layers, {precision}")
                if precision in refused:
                    rows.append({"subject": subject, "precision": precision, "layers": layers,
                                 "discarded": refused[precision]})  # fmt: skip
                    say(f"  left out: {refused[precision]}")
                    continue
                build = PlanBuild(
                    graph=str(Path(folder) / "encoder.onnx"),
                    precision=precision,
                    compute_capability=compute_capability,
                    max_batch_tokens=_TOKENS,
                    max_length=2048 if "smollm2" in subject else 4096,
                )
                rows.append(row := _measure(subject, checkpoint, build))
                say(f"  {row['plan_bytes'] / 1e6:.1f} MB in {row['seconds']:.1f} s")
    return result()


def _why_not(precision: str, target: TargetDevice) -> str:
    """Return why a precision does not run on a target; nothing where it does."""
    try:
        check_precision_on_target(precision, target)
    except UnsupportedDevice as error:
        return str(error)
    return ""


def _checkpoints(
    models: Sequence[str], folder: Path, cache_folder: Path | None, say: Callable[[str], None]
) -> Iterable[tuple[str, Checkpoint]]:
    if "smollm2" in models:
        source = catalogue_entry("smollm2-135m").source
        yield "smollm2-135m", open_checkpoint(source, cache_folder=cache_folder)
    if "sfr" in models:
        for layers in (1, 2):
            path = folder / f"sfr-{layers}"
            config = {**SFR_CONFIG, "num_hidden_layers": layers}
            write_random_checkpoint(path, config, seed=1, say=say)
            yield SFR, open_checkpoint(path)


def _measure(subject: str, checkpoint: Checkpoint, build: PlanBuild) -> Row:
    config = checkpoint.config
    assert isinstance(config, DecoderConfig)
    precision = PRECISIONS[build.precision]
    graph = model_graph(
        checkpoint,
        precision=build.precision,
        target="tensorrt-rtx",
        contract=EmbeddingContract(),
        calibration=PlainCalibration(config, build.precision) if precision.is_calibrated else None,
    ).build(rotary_positions=build.max_batch_tokens, version="0", shares_prefixes=True)
    path = Path(build.graph)
    ir.save(graph, path, external_data=f"{path.name}.data")
    data = path.with_name(f"{path.name}.data")
    weight_bytes = data.stat().st_size
    built = run_plan_build(build)
    path.unlink()
    data.unlink()
    check_contents(built, build.precision, layers=config.num_layers)
    return {
        "subject": subject,
        "precision": build.precision,
        "layers": config.num_layers,
        "seconds": built["seconds"],
        "weight_bytes": weight_bytes,
        "plan_bytes": built["plan_bytes"],
        "rss_bytes": built["peak_bytes"],
    }


TYPES = {"fp32": "float", "fp16": "half", "bf16": "bf16", "int8": "int8", "fp8": "fp8_e4m3"}
"""Type of the constant that a linear layer multiplies by, in the words of TensorRT's listing."""


def check_contents(built: dict[str, Any], precision: str, *, layers: int) -> None:
    """Check that all linear layers are in a precision and all attentions fused.

    Args:
        built: Of `run_plan_build`.
        precision: The precision.
        layers: Layers of the decoder, of four linear layers each.

    Raises:
        PeerFailed: They are not.
    """
    wanted = {TYPES.get(precision, "computed"): 4 * layers}
    if precision == "int8":
        wanted["half"] = layers  # rotations before down_proj
    if precision != "fp32" and built["fused_attentions"] != layers:
        raise PeerFailed(f"{built['fused_attentions']} of {layers} attentions are fused")
    if precision != "fp32" and built["products"] != wanted:
        raise PeerFailed(f"the plan in {precision} has products {built['products']}, not {wanted}")


def whole_plan_bytes(rows: Iterable[Row], precision: str) -> int | None:
    """Return the size of a plan of all of SFR's layers; None where it was not measured.

    The plan of one layer, and 31 times what the second layer added to it: embeddings and head
    come once.
    """
    sizes = {
        row["layers"]: row["plan_bytes"]
        for row in rows
        if row["subject"] == SFR and row["precision"] == precision and "discarded" not in row
    }
    if not {1, 2} <= sizes.keys():
        return None
    return int(sizes[1] + (_SFR_LAYERS - 1) * (sizes[2] - sizes[1]))


def plans_table(result: dict[str, Any]) -> list[str]:
    """Return the result as lines of Markdown."""
    lines = [
        "| model | layers | precision | weights, MB | plan, MB | build, s | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [row for row in result["rows"] if "discarded" not in row]
    for row in measured:
        figures = [row[name] / 1e6 for name in ("weight_bytes", "plan_bytes", "rss_bytes")]
        lines.append(
            f"| {row['subject']} | {row['layers']} | {row['precision']} | {figures[0]:.0f} | "
            f"{figures[1]:.0f} | {row['seconds']:.1f} | {figures[2]:.0f} |"
        )
    precisions = dict.fromkeys(row["precision"] for row in measured)
    sizes = {name: whole_plan_bytes(result["rows"], name) for name in precisions}
    known = {name: size for name, size in sizes.items() if size is not None}
    if known:
        lines += ["", "| all 32 layers of SFR-Embedding-Mistral | GB |", "|---|---|"]
        figures_gb = [(f"plan in {name}", size / 1e9, ", computed") for name, size in known.items()]
        figures_gb += [
            (f"GGUF {name}", size, ", published") for name, size in GGUF_SIZES_GB.items()
        ]
        for name, size, basis in sorted(figures_gb, key=lambda figure: figure[1]):
            lines.append(f"| {name}{basis} | {size:.2f} |")
    left_out = {row["precision"]: row["discarded"] for row in result["rows"] if "discarded" in row}
    if left_out:
        lines += ["", *(f"- {name} is not in the table: {why}" for name, why in left_out.items())]
    return lines
