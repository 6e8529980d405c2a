"""Packed graphs of small checkpoints, written as the exporter writes them."""

import onnx_ir as ir

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quantisation.calibrate import calibrate_model


def write_packed_graph(folder, precision, contract, *, rows, **forms):
    """Write ``encoder.onnx`` beside the checkpoint in ``folder / "hf"``, and return its path.

    Args:
        folder: Where it is written.
        precision: One of `PRECISIONS`; calibrated on ``rows`` where it is calibrated.
        contract: `EmbeddingContract`.
        rows: ``[length] int32`` each.
        forms: ``shares_prefixes`` and ``keeps_prefixes`` of `PackedGraph.build`.
    """
    checkpoint = open_checkpoint(folder / "hf")
    calibration = None
    if PRECISIONS[precision].is_calibrated:
        calibration = calibrate_model(
            checkpoint, rows, precision=precision, target="onnxruntime", contract=contract
        )
    graph = model_graph(
        checkpoint, precision=precision, contract=contract, calibration=calibration
    ).build(rotary_positions=2048, version="0", **forms)
    ir.save(graph, folder / "encoder.onnx", external_data="encoder.onnx.data")
    return folder / "encoder.onnx"
