"""The export of a model that has no packed graph: optimum's graph, our head, checks."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lasttoken_export._version import __version__
from lasttoken_export.card import Card
from lasttoken_export.catalogue import CatalogueEntry, load_catalogue, prompts_with_tasks
from lasttoken_export.errors import (
    InvalidOption,
    ModelNotFound,
    UnsupportedArchitecture,
    VerificationFailed,
)
from lasttoken_export.export_options import RUNTIMES, ExportOptions
from lasttoken_export.exporter import ExportReport
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.max_length import check_max_length
from lasttoken_export.model_files import (
    check_tokenizer,
    digests_of,
    save_graph,
    special_ids,
    write_tokenizer,
)
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.padded.environment import optimum_python
from lasttoken_export.padded.pooling_head import graft_pooling_head
from lasttoken_export.padded.transformers_folder import TransformersFolder
from lasttoken_export.published_config import check_published_config
from lasttoken_export.repository import check_disk, check_output, staged_model
from lasttoken_export.server_modules import server_module
from lasttoken_export.verification import check_graph

PRECISION = "fp32"
"""The only one: what else the packed graphs have is built into them."""

_PREFERRED_BATCH_TOKENS = {"onnxruntime-cpu": 512, "onnxruntime-cuda": 8192}
"""By the runtimes that run it."""

_ROW_LENGTHS = (1, 2, 3, 9, 17, 40, 64, 7)
_LONGEST_ROW = 2048
"""The last row is as long as a text may be, up to this: a table of positions may be too short."""
_LOWEST_COSINE, _LARGEST_DIFFERENCE = 0.99999, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How close the written graph comes to transformers, each text computed alone there.

    Attributes:
        parity_rows: Rows of random tokens compared, in a padded batch.
        parity_lowest_cosine: Of a row's vectors.
        parity_largest_difference: Of an element.
        attention: ``causal`` or ``bidirectional``, as the model was found to attend.
    """

    parity_rows: int
    parity_lowest_cosine: float
    parity_largest_difference: float
    attention: str


def export_padded_model(
    model: TransformersFolder,
    entry: CatalogueEntry,
    options: ExportOptions,
    *,
    cache_folder: Path | None = None,
    announce: Callable[[str], None] | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Export a folder as three Triton models whose encoder runs padded.

    The whole model is in memory twice while optimum writes it.

    Args:
        model: The folder.
        entry: The contract that it is served by.
        options: The caller's choices.
        cache_folder: Where the environment of optimum is kept; None for the default.
        announce: Told what takes long.
        on_bytes: Told the bytes of weights written and their total.

    Raises:
        ExportError: The folder, the options or the result are not acceptable; the repository is
            left as it was.
    """
    started_s = time.monotonic()
    config = model.config
    max_length = entry.max_length if options.max_length is None else options.max_length
    check_max_length(config, max_length)
    check_published_config(model, entry)
    if options.precision != PRECISION:
        raise InvalidOption(
            f"precision is {options.precision!r}; a padded graph is written in {PRECISION} only"
        )
    runtime = RUNTIMES[options.runtime]
    if runtime not in _PREFERRED_BATCH_TOKENS or options.encoder != "python":
        raise InvalidOption(
            f"runtime is {options.runtime!r}, encoder {options.encoder!r}; a padded graph runs on "
            "onnxruntime or onnxruntime-cuda, hosted by python"
        )
    preferred_tokens = _PREFERRED_BATCH_TOKENS[runtime]
    max_batch_tokens = max(max_length, preferred_tokens)
    queue_tokens = options.queue_tokens(max_batch_tokens)
    name = entry.triton_name if options.triton_name is None else options.triton_name
    check_output(options.output, name)
    check_disk(options.output, 2 * _weight_bytes_on_disk(model.folder))
    contract = EmbeddingContract.of(entry)
    with (
        tempfile.TemporaryDirectory(prefix="lasttoken-optimum-") as scratch,
        staged_model(options.output, name) as writer,
    ):
        tokenizer_files = write_tokenizer(writer, model, entry, max_length)
        python = optimum_python(cache_folder, announce=announce)
        rows = _random_rows(config.vocab_size, max_length)
        reference, attention = _run_optimum(python, model, Path(scratch), rows)
        _check_attention(model, entry, attention)
        graph = ir.load(Path(scratch) / "model.onnx")
        graft_pooling_head(graph, contract, dimensions=config.hidden_size)
        graph.producer_name, graph.producer_version = "lasttoken-export, optimum", __version__
        tensors = (value.const_value for value in graph.graph.initializers.values())
        weight_bytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        writer.write_models(
            dimensions=config.hidden_size,
            parameters={
                TOKENIZER: {"on_overflow": options.on_overflow},
                ENCODER: {
                    "runtime": runtime,
                    "graph_form": "padded",
                    "intra_op_threads": str(options.intra_op_threads),
                    "streams": str(options.streams),
                    "max_length": str(max_length),
                    "vocab_size": str(config.vocab_size),
                    "max_batch_tokens": str(max_batch_tokens),
                    "preferred_batch_tokens": str(preferred_tokens),
                    "max_queue_tokens": str(queue_tokens),
                    # 4 operations an element of a layer's heads, over 2 a parameter of the whole.
                    "attention_cell_cost": (
                        f"{8 * config.hidden_size * config.num_layers / weight_bytes:.3g}"
                    ),
                },
            },
        )
        check_tokenizer(writer)
        graph_file = writer.version_folder(ENCODER) / "encoder.onnx"
        save_graph(graph, graph_file, weight_bytes, on_bytes)
        parity = _check_parity(graph_file, rows, reference, contract, attention)
        checks = asdict(parity) | asdict(
            check_graph(
                graph_file,
                layers=config.num_layers,
                dimensions=config.hidden_size,
                vocab_size=config.vocab_size,
                max_length=max_length,
                padded=True,
            )
        )
        quality = {"status": "reference", "reason": "fp32, compared with transformers"}
        data_file = graph_file.with_name("encoder.onnx.data")
        files = [*tokenizer_files, graph_file, *([data_file] if data_file.exists() else [])]
        card = Card(
            model=entry.model_name,
            like=entry.name if entry.weights_of else None,
            source=model.location,
            revision=model.revision,
            licence=asdict(entry.licence),
            architecture=config.architecture,
            graph_form="padded",
            precision=PRECISION,
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
            plan=None,
            quality=quality,
            exporter=__version__,
        )
        writer.write_card(card.to_json(), dimensions=config.hidden_size)
    return ExportReport(
        triton_name=name,
        repository=options.output,
        seconds=time.monotonic() - started_s,
        weight_bytes=weight_bytes,
        checks=checks,
        quality=quality,
    )


def _weight_bytes_on_disk(folder: Path) -> int:
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFound(
            f"{folder} has no safetensors file; pickled weights (.bin) are not read: convert them "
            "with safetensors"
        )
    return sum(file.stat().st_size for file in files)


def _random_rows(vocab_size: int, max_length: int) -> list[NDArray[np.int64]]:
    """Draw tokens from the upper half of the vocabulary, where no special token has its place."""
    random = np.random.default_rng(1)
    return [
        random.integers(vocab_size // 2, vocab_size, min(length, max_length))
        for length in (*_ROW_LENGTHS, min(max_length, _LONGEST_ROW))
    ]


def _run_optimum(
    python: Path, model: TransformersFolder, scratch: Path, rows: list[NDArray[np.int64]]
) -> tuple[list[NDArray[np.float32]], str]:
    """Write scratch/model.onnx; return the hidden states ``[tokens, D]`` of each row."""
    lengths = [len(row) for row in rows]
    np.savez(scratch / "rows.npz", input_ids=np.concatenate(rows), lengths=np.array(lengths))
    script = Path(__file__).with_name("export_script.py")
    run = subprocess.run(
        [str(python), "-P", str(script), str(model.folder.resolve()), str(scratch)],
        capture_output=True,
        text=True,
        check=False,
        cwd=scratch,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": ""},
    )
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        raise UnsupportedArchitecture(
            f"{model.config.architecture} has no packed graph, and optimum cannot export it either "
            f"(a model's own code is never run): {lines[-1] if lines else 'no reason given'}"
        )
    with np.load(scratch / "reference.npz") as file:
        hidden = np.split(file["hidden"], np.cumsum(lengths)[:-1])
    return list(hidden), (scratch / "attention.txt").read_text()


def _check_attention(model: TransformersFolder, entry: CatalogueEntry, found: str) -> None:
    """Refuse a model that transformers computes in another direction than its authors mean."""
    known = entry.name in load_catalogue()
    meant = entry.attention if known else model.config.stated_attention
    if meant not in (None, found):
        raise UnsupportedArchitecture(
            f"{model.config.architecture} attends {found} in transformers, from which optimum "
            f"exports it; {entry.name} is meant to attend {meant}: export it packed"
        )


def _check_parity(
    graph_file: Path,
    rows: list[NDArray[np.int64]],
    hidden: list[NDArray[np.float32]],
    contract: EmbeddingContract,
    attention: str,
) -> Parity:
    engine = server_module(ENCODER, "padded_engine").PaddedEngine(
        graph_file, runtime="onnxruntime-cpu", intra_op_threads=0
    )
    vectors = np.concatenate(
        [_encode(engine, batch) for batch in (rows[:-1], rows[-1:])], dtype=np.float64
    )
    expected = np.stack([pooled_vector(states, contract) for states in hidden])
    cosines = (vectors * expected).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    parity = Parity(
        parity_rows=len(rows),
        parity_lowest_cosine=float(cosines.min()),
        parity_largest_difference=float(np.abs(vectors - expected).max()),
        attention=attention,
    )
    if not (
        parity.parity_lowest_cosine >= _LOWEST_COSINE
        and parity.parity_largest_difference <= _LARGEST_DIFFERENCE
    ):
        raise VerificationFailed(
            f"the exported graph is not the model that transformers runs: {parity}"
        )
    return parity


def _encode(engine: Any, rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    lengths = np.array([len(row) for row in rows], np.int32)
    vectors: NDArray[np.float32] = engine.encode(np.concatenate(rows).astype(np.int32), lengths)
    return vectors


def pooled_vector(states: NDArray[np.float32], contract: EmbeddingContract) -> NDArray[np.float64]:
    """Return the vector ``[D]`` that the contract makes of a row's hidden states ``[T, D]``."""
    exact = states.astype(np.float64)
    pooled = {"last_token": exact[-1], "cls": exact[0], "mean": exact.mean(axis=0)}[
        contract.pooling
    ]
    if contract.layer_norm:
        pooled = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-5)
    normalised: NDArray[np.float64] = pooled / np.linalg.norm(pooled)
    return normalised
