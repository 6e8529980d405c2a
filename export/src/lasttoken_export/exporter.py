"""The export of one model: checkpoint in, verified Triton model repository out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from lasttoken_export._version import __version__
from lasttoken_export.architectures import attention_cell_cost
from lasttoken_export.card import Card
from lasttoken_export.catalogue import CatalogueEntry, prompts_with_tasks
from lasttoken_export.checkpoint import Checkpoint, validate_tensors
from lasttoken_export.checkpoint.weights_digest import weights_digest
from lasttoken_export.errors import InvalidOption
from lasttoken_export.export_options import RUNTIMES, ExportOptions
from lasttoken_export.graph.graph_memory import fits_into_memory, memory_to_run, weight_bytes
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.graph.unsigned_weights import use_unsigned_weights
from lasttoken_export.max_length import check_max_length
from lasttoken_export.model_files import (
    check_tokenizer,
    digests_of,
    save_graph,
    special_ids,
    write_tokenizer,
)
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.native_config import NativeEncoder
from lasttoken_export.precisions import PRECISIONS, float_type, safe_precisions
from lasttoken_export.published_config import check_published_config
from lasttoken_export.quality.export_check import check_export, open_texts
from lasttoken_export.quantisation.calibrate_entry import calibrate_entry
from lasttoken_export.repository import check_disk, check_output, staged_model
from lasttoken_export.tensorrt.callbacks import OnProgress
from lasttoken_export.tensorrt.plan_builder import check_memory
from lasttoken_export.tensorrt.plan_step import (
    MAX_ROWS,
    PLAN_FILE,
    prepare_plan,
    replace_graph_by_plan,
)
from lasttoken_export.tensorrt.profile import PlanProfile
from lasttoken_export.verification import (
    check_graph_where_it_runs,
    check_weights,
)

__all__ = ["ExportOptions", "ExportReport", "export_model"]

_NATIVE_BATCH_SIZE = 8
_PREFERRED_BATCH_TOKENS = dict.fromkeys(RUNTIMES.values(), 8192) | {"onnxruntime-cpu": 512}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        triton_name: Name of the ensemble in the repository.
        repository: The repository.
        seconds: Time of the whole export.
        weight_bytes: Size of all weights.
        checks: Figures of the verification.
        quality: The card's figures against fp32.
    """

    triton_name: str
    repository: Path
    seconds: float
    weight_bytes: int
    checks: dict[str, Any]
    quality: dict[str, Any]


def export_model(
    checkpoint: Checkpoint,
    entry: CatalogueEntry,
    options: ExportOptions,
    *,
    on_bytes: Callable[[int, int], None] | None = None,
    on_plan: OnProgress | None = None,
    on_texts: Callable[[int, int], None] | None = None,
    on_layer: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ExportReport:
    """Export a checkpoint as three Triton models.

    Weights are streamed: one fused tensor is in memory at a time.

    Args:
        checkpoint: The weights and the tokenizer.
        entry: The contract that they are served by.
        options: The caller's choices.
        on_bytes: Told the bytes of weights written and their total.
        on_plan: Told a phase of the plan's build, its steps done and their number.
        on_texts: Told the texts embedded for the comparison with fp32 and their total.
        on_layer: Told the layers calibrated and their number.
        say: Told what the user should know.

    Raises:
        ExportError: The checkpoint, the options or the result are not acceptable; the repository
            is left as it was.
    """
    started_s = time.monotonic()
    config = checkpoint.config
    max_length = entry.max_length if options.max_length is None else options.max_length
    check_max_length(config, max_length)
    check_published_config(checkpoint, entry)
    check_precision(entry, options.precision, options.runtime)
    validate_tensors(checkpoint)
    runtime = RUNTIMES[options.runtime]
    preferred_tokens = _PREFERRED_BATCH_TOKENS[runtime]
    native = _native_encoder(options, max_length)
    max_batch_tokens = (
        max(max_length, preferred_tokens) if native is None else native.max_batch_tokens
    )
    queue_tokens = options.queue_tokens(max_batch_tokens)
    contract = EmbeddingContract.of(entry)
    # A calibration takes hours for a large model: all but a lack of room is refused before it.
    model = entry.triton_name if options.triton_name is None else options.triton_name
    check_output(options.output, model)
    texts = open_texts(options.precision, options.quality)
    # The backends that run a native encoder can form no such indices.
    shares_prefixes = contract.attention == "causal" and native is None
    # On a GPU every batch begins anew. Of a kept token there is nothing that could be pooled.
    keeps_prefixes = (
        shares_prefixes and runtime == "onnxruntime-cpu" and contract.pooling == "last_token"
    )
    profile = PlanProfile(
        max_batch_tokens=max_batch_tokens,
        max_rows=MAX_ROWS if native is None else native.max_batch_size,
        max_length=max_length,
        usual_batch_tokens=min(preferred_tokens, max_batch_tokens),
        shares_prefixes=shares_prefixes,
    )
    plan_options = prepare_plan(options.runtime, options.precision, options.plan, profile=profile)
    calibration = None
    if PRECISIONS[options.precision].is_calibrated:
        calibration = calibrate_entry(
            checkpoint,
            entry,
            precision=options.precision,
            target=options.runtime,
            max_length=max_length,
            options=options.calibration,
            on_layer=on_layer,
            say=say,
        )
    graph_options: dict[str, Any] = {
        "calibration": calibration,
        "precision": options.precision,
        "target": options.runtime,
        "safe": entry.precisions,
        "contract": contract,
    }

    def build(num_layers: int | None = None) -> ir.Model:
        built = model_graph(checkpoint, **graph_options, num_layers=num_layers).build(
            rotary_positions=max_batch_tokens,
            version=__version__,
            shares_prefixes=shares_prefixes,
            keeps_prefixes=keeps_prefixes,
        )
        if native is not None:
            use_unsigned_weights(built)
        return built

    graph = build()
    size = weight_bytes(graph)
    memory_bytes = memory_to_run(graph, target=options.runtime)
    if plan_options is not None:
        check_memory(size)
    check_disk(options.output, size if plan_options is None else 2 * size)

    with staged_model(options.output, model) as writer:
        writer.native = native
        tokenizer_files = write_tokenizer(writer, checkpoint, entry, max_length)
        writer.write_models(
            dimensions=config.hidden_size,
            parameters={
                TOKENIZER: {
                    "on_overflow": options.on_overflow,
                    "max_texts_per_request": "256" if native is None else "1",
                },
                ENCODER: {
                    "runtime": runtime,
                    "precision": options.precision,
                    "revision": checkpoint.revision or "",
                    "intra_op_threads": str(options.intra_op_threads),
                    "streams": str(options.streams),
                    **_chosen("kept_prefix_tokens", options.kept_prefix_tokens),
                    "max_length": str(max_length),
                    "vocab_size": str(config.vocab_size),
                    "max_batch_tokens": str(max_batch_tokens),
                    "preferred_batch_tokens": str(preferred_tokens),
                    "max_batch_rows": str(MAX_ROWS),
                    "max_queue_tokens": str(queue_tokens),
                    "attention_cell_cost": f"{attention_cell_cost(config):.3g}",
                },
            },
        )
        check_tokenizer(writer)
        graph_file = writer.version_folder(ENCODER) / "encoder.onnx"
        save_graph(graph, graph_file, size, on_bytes)
        first_layer = build(num_layers=1)
        checks: dict[str, Any] = {"weight_bytes_compared": check_weights(graph_file, first_layer)}
        checked_file, layers = graph_file, config.num_layers
        if not fits_into_memory(memory_bytes):
            checked_file, layers = graph_file.with_name("first_layer.onnx"), 1
            ir.save(first_layer, checked_file)
        checks |= check_graph_where_it_runs(
            checked_file,
            target=options.runtime,
            layers=layers,
            dimensions=config.hidden_size,
            vocab_size=config.vocab_size,
            max_length=max_length,
        )
        if checked_file != graph_file:
            checked_file.unlink()
        quality = check_export(
            graph_file,
            precision=options.precision,
            target=options.runtime,
            texts=texts,
            checkpoint=checkpoint,
            contract=contract,
            tokenizer_folder=writer.version_folder(TOKENIZER),
            max_batch_tokens=max_batch_tokens,
            memory_bytes=memory_bytes,
            options=options.quality,
            on_texts=on_texts,
        )
        plan_record = None
        if plan_options is None:
            served_files = [graph_file, graph_file.with_name("encoder.onnx.data")]
        else:
            plan_file, plan_record = replace_graph_by_plan(
                graph_file, plan_options, options.plan, on_progress=on_plan, say=say
            )
            served_files = [plan_file]
            if options.plan.keep_graph:
                kept = [graph_file, graph_file.with_name("encoder.onnx.data")]
                plan_record["graph_sha256"] = digests_of(kept, writer.staging)
        files = [*tokenizer_files, *served_files]
        card = Card(
            model=entry.model_name,
            like=entry.name if entry.weights_of else None,
            source=checkpoint.location,
            revision=checkpoint.revision,
            weights_sha256=weights_digest(checkpoint),
            licence=asdict(entry.licence),
            architecture=config.architecture,
            graph_form="packed",
            precision=options.precision,
            calibration=None if calibration is None else calibration.for_card(),
            runtime=runtime,
            pooling=entry.pooling,
            dimensions=config.hidden_size,
            matryoshka=entry.matryoshka,
            max_length=max_length,
            opening_ids=special_ids(entry.tokenizer, behind=False),
            closing_ids=special_ids(entry.tokenizer, behind=True),
            vocab_size=config.vocab_size,
            prompts=sorted(prompts_with_tasks(entry.tokenizer)),
            default_prompt_name=entry.tokenizer["default_prompt_name"],
            sha256=digests_of(files, writer.staging),
            checks=checks,
            plan=plan_record,
            quality=quality,
            exporter=__version__,
        )
        writer.write_card(card.to_json(), dimensions=config.hidden_size)
    return ExportReport(
        triton_name=model,
        repository=options.output,
        seconds=time.monotonic() - started_s,
        weight_bytes=size,
        checks=checks,
        quality=quality,
    )


def _chosen(parameter: str, value: int | None) -> dict[str, str]:
    return {} if value is None else {parameter: str(value)}


def _native_encoder(options: ExportOptions, max_length: int) -> NativeEncoder | None:
    if options.encoder == "python":
        return None
    return NativeEncoder(
        runtime=options.runtime,
        file=PLAN_FILE if options.runtime == "tensorrt" else "encoder.onnx",
        max_batch_size=options.native_batch_size or _NATIVE_BATCH_SIZE,
        max_length=max_length,
        intra_op_threads=options.intra_op_threads,
    )


def check_precision(entry: CatalogueEntry, precision: str, target: str) -> None:
    """Refuse a precision in which the model is known to fail.

    Raises:
        InvalidOption: The catalogue does not call it safe.
    """
    if float_type(precision, target, entry.precisions) is None:
        safe = safe_precisions(target, entry.precisions)
        raise InvalidOption(
            f"{entry.name} is not safe in {precision}: its activations leave the range; choose one "
            f"of {', '.join(safe)}"
        )
