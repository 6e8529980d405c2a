"""The native flavour: the graph on Triton's own backends, with ragged batches and no Python.

Triton concatenates the rows of the requests that it batches, tells the graph their lengths
(BATCH_ITEM_SHAPE_FLATTEN) and the longest (BATCH_MAX_ELEMENT_COUNT_AS_SHAPE). It bounds a batch by
its rows only, so the graph or plan must take `max_batch_size` rows of `max_length` tokens. A
request's shape is all that Triton knows of its rows: rows padded to one length would be computed
with their padding, so the tokenizer takes one text a request.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/ragged_batching.md
"""

from __future__ import annotations

from dataclasses import dataclass

from lasttoken_export.errors import InvalidOption
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER

BACKENDS = {
    "onnxruntime": ("onnxruntime", "KIND_CPU"),
    "onnxruntime-cuda": ("onnxruntime", "KIND_GPU"),
    "tensorrt": ("tensorrt", "KIND_GPU"),
}
"""Triton's backend and the kind of its instances by ``--runtime``."""

_PYTHON_STEP = """\
      input_map { key: "INPUT_IDS" value: "input_ids" }
      input_map { key: "ROW_LENGTHS" value: "TOKEN_COUNT" }
      output_map { key: "EMBEDDING" value: "EMBEDDING" }
"""
_NATIVE_STEP = """\
      input_map { key: "input_ids" value: "input_ids" }
      output_map { key: "embedding" value: "EMBEDDING" }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeEncoder:
    """What the configuration of a native encoder is made from.

    Attributes:
        runtime: One of `BACKENDS`.
        file: Name of the graph or plan in the version folder.
        max_batch_size: Most rows of a batch.
        max_length: Longest row in tokens.
        intra_op_threads: Threads of ONNX Runtime; 0 for one a core.

    Raises:
        InvalidOption: Triton has no backend for the runtime, or the batch is no batch.
    """

    runtime: str
    file: str
    max_batch_size: int
    max_length: int
    intra_op_threads: int = 0

    def __post_init__(self) -> None:
        if self.runtime not in BACKENDS:
            raise InvalidOption(
                f"Triton has no backend of its own for {self.runtime}; choose --encoder python, or "
                f"one of {', '.join(BACKENDS)} as the runtime"
            )
        if self.max_batch_size < 1:
            raise InvalidOption(
                f"the native batch size is {self.max_batch_size!r}; choose 1 or more"
            )

    @property
    def max_batch_tokens(self) -> int:
        """Tokens that the graph must take in one run: nothing else bounds a batch."""
        return self.max_batch_size * self.max_length


def native_encoder_config(encoder: NativeEncoder, *, model: str, dimensions: int) -> str:
    """Return the encoder's config.pbtxt.

    Args:
        encoder: What it is made from.
        model: Triton name of the exported model, without the ending of a step.
        dimensions: Elements of its embedding.
    """
    backend, kind = BACKENDS[encoder.runtime]
    text = f"""\
name: "{model}{ENCODER}"
backend: "{backend}"
default_model_filename: "{encoder.file}"
# Nothing else bounds a batch: the graph takes {encoder.max_batch_size} rows of \
{encoder.max_length} tokens, {encoder.max_batch_tokens} in all.
max_batch_size: {encoder.max_batch_size}
input [
  {{
    # One row a request: rows padded to one length would be computed with their padding.
    name: "input_ids"
    data_type: TYPE_INT32
    dims: [ -1 ]
    allow_ragged_batch: true
  }}
]
# Made by Triton: the length of each row, and a tensor of the longest row's length, never filled.
batch_input [
  {{
    kind: BATCH_ITEM_SHAPE_FLATTEN
    target_name: "row_lengths"
    data_type: TYPE_INT32
    source_input: "input_ids"
  }},
  {{
    kind: BATCH_MAX_ELEMENT_COUNT_AS_SHAPE
    target_name: "slots"
    data_type: TYPE_INT32
    source_input: "input_ids"
  }}
]
output [
  {{
    # L2-normalised.
    name: "embedding"
    data_type: TYPE_FP32
    dims: [ {dimensions} ]
  }}
]
instance_group [ {{ kind: {kind} count: 1 }} ]
dynamic_batching {{}}
"""
    if encoder.runtime == "onnxruntime" and encoder.intra_op_threads:
        threads = encoder.intra_op_threads
        text += (
            f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}\n'
        )
    parse_config(text)
    return text


def native_ensemble_config(text: str, encoder: NativeEncoder) -> str:
    """Point an ensemble's config.pbtxt at a native encoder.

    Args:
        text: The ensemble's, adapted to the model.
        encoder: The encoder.
    """
    expected = parse_config(text)
    size = f"max_batch_size: {expected.max_batch_size}"
    assert text.count(_PYTHON_STEP) == text.count(size) == 1
    text = text.replace(_PYTHON_STEP, _NATIVE_STEP)
    # An ensemble's batch may not be larger than a step's.
    text = text.replace(size, f"max_batch_size: {encoder.max_batch_size}")
    parse_config(text)
    return text
