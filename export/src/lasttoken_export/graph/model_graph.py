"""Which graph belongs to which architecture."""

from __future__ import annotations

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import UnsupportedArchitecture
from lasttoken_export.graph.bert import BertGraph
from lasttoken_export.graph.decoder import DecoderGraph
from lasttoken_export.graph.nomic_bert import NomicBertGraph
from lasttoken_export.graph.packed_graph import EmbeddingContract, PackedGraph


def model_graph(
    checkpoint: Checkpoint,
    *,
    precision: str,
    contract: EmbeddingContract,
    num_layers: int | None = None,
) -> PackedGraph:
    """Return the builder of a checkpoint's graph.

    Args:
        checkpoint: The weights.
        precision: One of `packed_graph.FLOAT_TYPES`.
        contract: Pooling and attention.
        num_layers: Only so many of the first layers, for a check; None for all.

    Raises:
        UnsupportedArchitecture: The contract asks for causal attention of an encoder.
    """
    config = checkpoint.config
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
    return kind(checkpoint, precision=precision, contract=contract, num_layers=num_layers)
