"""Calibration of a model by its catalogue entry: texts, prompts and the place of the result."""

from __future__ import annotations

from collections.abc import Callable

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quantisation.calibrate import calibrate_model
from lasttoken_export.quantisation.calibration import Calibration
from lasttoken_export.quantisation.calibration_options import CalibrationOptions
from lasttoken_export.quantisation.prompted_rows import prompted_rows
from lasttoken_export.quantisation.texts import default_texts, read_texts

_FEW_TOKENS = 4096
"""Below so many of their own texts the user is warned; the shipped ones have 5,000 to 7,000."""


def calibrate_entry(
    checkpoint: Checkpoint,
    entry: CatalogueEntry,
    *,
    precision: str,
    target: str,
    max_length: int | None = None,
    options: CalibrationOptions | None = None,
    on_layer: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Calibrate a model for a precision, or find an earlier calibration.

    Args:
        checkpoint: The weights and the tokenizer.
        entry: Knows prompts, pooling and attention.
        precision: One that is calibrated.
        target: One of `precisions.TARGETS`.
        max_length: Most tokens of a text as served; None for the model's own.
        options: The caller's choices.
        on_layer: Told the layers done and their number.
        say: Told what the user should know.

    Raises:
        InvalidOption: The file of texts is not acceptable.
        NotEnoughMemory: As of `calibrate_model`.
        TokenizerMismatch: The tokenizer does not follow the model's contract.
    """
    options = options or CalibrationOptions()
    texts = default_texts() if options.texts is None else read_texts(options.texts)
    rows = prompted_rows(checkpoint, entry, texts, max_length=max_length or entry.max_length)
    tokens = sum(map(len, rows))
    if options.texts is not None and tokens < _FEW_TOKENS:
        say(
            f"warning: {tokens} tokens in {len(rows)} calibration texts are few: what has not been "
            f"seen is rounded badly; give {_FEW_TOKENS} tokens or more"
        )
    return calibrate_model(
        checkpoint,
        rows,
        precision=precision,
        target=target,
        contract=EmbeddingContract.of(entry),
        folder=options.folder,
        cache_folder=options.cache_folder,
        seed=options.seed,
        on_layer=on_layer,
        say=say,
    )
