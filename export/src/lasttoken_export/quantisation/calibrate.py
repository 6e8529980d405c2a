"""Calibration: runs texts through a model layer by layer and keeps what quantisation needs.

Every layer's file is written when the layer is done, and so are the hidden states behind it: a
calibration that was stopped goes on where it was. The folder is named by a digest of all that
decides the result, so it is found again and never taken for another's.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lasttoken_export.available_memory import available_memory_bytes
from lasttoken_export.checkpoint import Checkpoint, default_cache_folder
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import NotEnoughMemory
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import CalibrationLayer, EmbeddingContract
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibration import ROWS, Calibration, layer_file, scheme_of
from lasttoken_export.quantisation.calibration_folder import (
    find_calibration,
    finish,
    hidden_file,
    one_at_a_time,
    remove_forsaken,
    resume,
    save,
    save_hidden,
)
from lasttoken_export.quantisation.input_changes import LayerChanges
from lasttoken_export.quantisation.layer_runner import LayerRunner, Tokens, packed_batches
from lasttoken_export.quantisation.observers import make_observer
from lasttoken_export.quantisation.rotated_checkpoint import with_rotated_states
from lasttoken_export.quantisation.sampled_tokens import LayerBatch

OnLayer = Callable[[int, int], None]
EARLY_DIVISOR = 6
"""The first sixth of an encoder's layers is early, none of a decoder's: docs/precisions.md."""


def calibrate_model(
    checkpoint: Checkpoint,
    rows: Sequence[Tokens],
    *,
    precision: str,
    target: str = "onnxruntime",
    contract: EmbeddingContract,
    folder: Path | None = None,
    cache_folder: Path | None = None,
    seed: int = 0,
    on_layer: OnLayer | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Calibrate a precision, or find what an earlier call with the same arguments left.

    Memory: one layer's weights in float32, the hidden states of all tokens, half a square matrix of
    each linear layer's inputs, and one of them whole in float64 (docs/measurements/README.md).

    Args:
        checkpoint: The weights.
        rows: Token ids of the calibration texts, prompts and special tokens included.
        precision: One that is calibrated.
        target: One of `precisions.TARGETS`: int8 differs between them.
        contract: Pooling and attention.
        folder: Where calibrations are kept; None for beside the checkpoint.
        cache_folder: Where they are kept if that is read-only; None for the default.
        seed: Decides which tokens are sampled.
        on_layer: Told the layers done and their number.
        say: Told of files that are damaged and made anew.

    Raises:
        NotEnoughMemory: Less is available than a layer and the states of all tokens take.
    """
    scheme = scheme_of(precision, target)
    digest = _digest(checkpoint, rows, scheme, contract, seed)
    kept = (folder or calibrations_folder(checkpoint, cache_folder)) / f"{scheme}-{digest[:16]}"
    found_before = find_calibration(kept, say)
    if found_before is not None:
        return found_before
    assert PRECISIONS[precision].is_calibrated
    kept.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(kept, say):
        return find_calibration(kept, say) or _calibrate(
            checkpoint,
            rows,
            scheme=scheme,
            contract=contract,
            folder=kept,
            seed=seed,
            manifest={"scheme": scheme, "digest": digest},
            on_layer=on_layer,
            say=say,
        )


def _calibrate(
    checkpoint: Checkpoint,
    rows: Sequence[Tokens],
    *,
    scheme: str,
    contract: EmbeddingContract,
    folder: Path,
    seed: int,
    manifest: Mapping[str, Any],
    on_layer: OnLayer | None,
    say: Callable[[str], None],
) -> Calibration:
    """Calibrate in a folder of its own, from where an earlier start came to."""
    remove_forsaken(folder)
    if scheme == ROWS:
        checkpoint = with_rotated_states(checkpoint)
    batches = packed_batches(rows)
    tokens = sum(map(len, rows))
    layers = checkpoint.config.num_layers
    early = 0 if isinstance(checkpoint.config, DecoderConfig) else layers // EARLY_DIVISOR
    first, hidden, linears = resume(folder, layers, say)
    for index in range(first, layers):
        if on_layer is not None:
            on_layer(index, layers)
        graph = model_graph(checkpoint, precision="fp32", contract=contract)
        longest = max(sum(map(len, batch)) for batch in batches)
        layer = graph.build_layer(index, rotary_positions=longest)
        if index == first:
            _check_memory(layer, tokens, checkpoint.config.hidden_size)
        runner = LayerRunner(layer, folder)
        observers = [
            make_observer(
                scheme,
                linear,
                checkpoint,
                tokens=tokens,
                seed=seed,
                is_early=index < early,
            )
            for linear in layer.linears
        ]
        outputs = []
        for rows_of_batch, (output, *inputs) in zip(
            batches, runner.run(batches, hidden), strict=True
        ):
            outputs.append(output)
            ends = np.cumsum([len(row) for row in rows_of_batch])
            first_tokens = np.concatenate([[0], ends[:-1]]).astype(np.int64)
            batch = LayerBatch(states=output, first_tokens=first_tokens)
            for observer, values in zip(observers, inputs, strict=True):
                observer.see(values, batch)
        del runner
        hidden = outputs
        found: dict[str, Any] = {}
        changes = LayerChanges({seen.linear.name: seen.choose() for seen in observers})
        for observer in observers:
            for what, array in observer.result(changes).items():
                found[f"{observer.linear.name}/{what}"] = array
            linears[observer.linear.name] = index
        save(layer_file(folder, index), found)
        if index + 1 < layers:
            save_hidden(folder, index + 1, hidden)
        hidden_file(folder, index).unlink(missing_ok=True)
    if on_layer is not None:
        on_layer(layers, layers)
    manifest = {
        **manifest,
        "texts_sha256": _texts_digest(rows),
        "texts": len(rows),
        "tokens": tokens,
        "seed": seed,
        "linears": linears,
    }
    return finish(folder, manifest)


def calibrations_folder(checkpoint: Checkpoint, cache_folder: Path | None = None) -> Path:
    """Folder of a checkpoint's calibrations: beside it, or in the cache if that is read-only."""
    beside = getattr(checkpoint, "folder", None)
    if beside is not None and os.access(beside, os.W_OK):
        return Path(beside) / "lasttoken-calibration"
    return (cache_folder or default_cache_folder()) / "calibration"


def _check_memory(layer: CalibrationLayer, tokens: int, hidden_size: int) -> None:
    """Refuse a calibration that would run out of memory; of a model's layers one is as another."""
    weights = (value.const_value for value in layer.model.graph.initializers.values())
    weight_bytes = sum(4 * weight.size for weight in weights if weight is not None)
    squares = [linear.in_features**2 for linear in layer.linears]
    states_bytes = 2 * 4 * tokens * hidden_size  # before the layer and behind it
    # Gram matrices by halves in float32, and the largest of them inverted whole in float64.
    needed = weight_bytes + 2 * sum(squares) + 8 * max(squares) + states_bytes
    available = available_memory_bytes()
    if needed > available:
        raise NotEnoughMemory(
            f"calibrating on {tokens} tokens takes about {needed / 1e9:.1f} GB of memory, "
            f"{states_bytes / 1e9:.1f} GB of them for the tokens' hidden states, and "
            f"{available / 1e9:.1f} GB are available; give fewer texts with --calibration-texts, "
            "or calibrate on a machine with more"
        )


def _texts_digest(rows: Sequence[Tokens]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(row, np.int32).tobytes())
    return digest.hexdigest()


def _digest(
    checkpoint: Checkpoint,
    rows: Sequence[Tokens],
    scheme: str,
    contract: EmbeddingContract,
    seed: int,
) -> str:
    """Digest all that decides the result, the bytes of the weights first of all."""
    digest = hashlib.sha256()
    for part in (scheme, repr(checkpoint.config), contract.attention, seed, sys.byteorder):
        digest.update(f"{part}\0".encode())
    digest.update(_texts_digest(rows).encode())
    for name in sorted(checkpoint.names()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.read(name)).view(np.uint8).data)
    return digest.hexdigest()
