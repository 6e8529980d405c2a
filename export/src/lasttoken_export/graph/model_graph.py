"""Which graph belongs to which architecture."""

from __future__ import annotations

from collections.abc import Collection

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import InvalidOption, UnsupportedArchitecture
from lasttoken_export.graph.bert import BertGraph
from lasttoken_export.graph.decoder import DecoderGraph
from lasttoken_export.graph.nomic_bert import NomicBertGraph
from lasttoken_export.graph.packed_graph import EmbeddingContract, PackedGraph
from lasttoken_export.precisions import FLOATS, PRECISIONS, find_precision, float_type
from lasttoken_export.quantisation.calibration import ROWS, Calibration, scheme_of
from lasttoken_export.quantisation.rotated_checkpoint import with_rotated_states


def model_graph(
    checkpoint: Checkpoint,
    *,
    precision: str,
    contract: EmbeddingContract,
    target: str = "onnxruntime",
    safe: Collection[str] = FLOATS,
    num_layers: int | None = None,
    calibration: Calibration | None = None,
) -> PackedGraph:
    """Return the builder of a checkpoint's graph.

    Args:
        checkpoint: The weights.
        precision: One of `precisions.PRECISIONS`.
        contract: Pooling and attention.
        target: One of `precisions.TARGETS`.
        safe: Float types in which the model's activations stay in range.
        num_layers: Only so many of the first layers, for a check; None for all.
        calibration: Of `calibrate_model`, for the precisions that are calibrated.

    Raises:
        InvalidOption: The target cannot run the precision, no float type is safe, or the precision
            is calibrated and there is no calibration.
        UnsupportedArchitecture: The contract asks for causal attention of an encoder.
    """
    if PRECISIONS[precision].is_calibrated and scheme_of(precision, target) == ROWS:
        checkpoint = with_rotated_states(checkpoint)  # as it was calibrated
    config = checkpoint.config
    found = float_type(precision, target, safe)
    if found is None:
        wanted = " or ".join(find_precision(precision, target).float_types[target])
        raise InvalidOption(
            f"{precision} on {target} computes in {wanted}, in which the model is not safe; choose "
            "fp32"
        )
    if PRECISIONS[precision].is_calibrated and calibration is None:
        raise InvalidOption(
            f"{precision} needs a calibration; make one with calibrate_model and give it here"
        )
    kind: type[PackedGraph]
    if isinstance(config, DecoderConfig):
        kind = DecoderGraph
    elif contract.attention != "bidirectional":
        raise UnsupportedArchitecture(
            f"{config.architecture} attends in both directions; its contract says "
            f"{contract.attention!r}: set attention to 'bidirectional'"
        )
    else:
        kind = NomicBertGraph if config.is_nomic else BertGraph
    return kind(
        checkpoint,
        precision=precision,
        contract=contract,
        num_layers=num_layers,
        target=target,
        float_type=found,
        calibration=calibration,
    )
