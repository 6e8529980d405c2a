"""A small model repository with the ensemble's contract and vectors that a test can compute.

The tokenizer step turns every byte of "<prompt><text>" into one token; the encoder step computes
`toy_vector` of these bytes, or misbehaves when the text tells it to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

DIMENSIONS = 8
MAX_TOKENS = 4096
MODEL = "toy_embedder"

_ENSEMBLE = """
name: "toy_embedder"
platform: "ensemble"
max_batch_size: 256
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "PROMPT_NAME" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "INSTRUCTION" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [
  { name: "EMBEDDING" data_type: TYPE_FP32 dims: [ 8 ] },
  { name: "TOKEN_COUNT" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "TRUNCATED" data_type: TYPE_BOOL dims: [ 1 ] }
]
ensemble_scheduling {
  step [
    {
      model_name: "toy_embedder_tokenizer"
      model_version: -1
      input_map { key: "TEXT" value: "TEXT" }
      input_map { key: "PROMPT_NAME" value: "PROMPT_NAME" }
      input_map { key: "INSTRUCTION" value: "INSTRUCTION" }
      output_map { key: "INPUT_IDS" value: "input_ids" }
      output_map { key: "TOKEN_COUNT" value: "TOKEN_COUNT" }
      output_map { key: "TRUNCATED" value: "TRUNCATED" }
    },
    {
      model_name: "toy_embedder_encoder"
      model_version: -1
      input_map { key: "INPUT_IDS" value: "input_ids" }
      input_map { key: "ROW_LENGTHS" value: "TOKEN_COUNT" }
      output_map { key: "EMBEDDING" value: "EMBEDDING" }
    }
  ]
}
"""

_TOKENIZER = """
name: "toy_embedder_tokenizer"
backend: "python"
max_batch_size: 256
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "PROMPT_NAME" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "INSTRUCTION" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [
  { name: "INPUT_IDS" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "TOKEN_COUNT" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "TRUNCATED" data_type: TYPE_BOOL dims: [ 1 ] }
]
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

_ENCODER = """
name: "toy_embedder_encoder"
backend: "python"
max_batch_size: 256
input [
  { name: "INPUT_IDS" data_type: TYPE_INT32 dims: [ -1 ] allow_ragged_batch: true },
  { name: "ROW_LENGTHS" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [ { name: "EMBEDDING" data_type: TYPE_FP32 dims: [ 8 ] } ]
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

_TOKENIZER_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils

MAX_TOKENS = 4096


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[:, 0]
        rows = list(text)
        for name in ("PROMPT_NAME", "INSTRUCTION"):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                rows = [p + b": " + t for p, t in zip(tensor.as_numpy()[:, 0], rows)]
        if any(b"BAD INPUT" in row for row in rows):
            error = pb_utils.TritonError("bad input: as asked", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        lengths = np.array([[min(len(row), MAX_TOKENS)] for row in rows], dtype=np.int32)
        ids = np.zeros((len(rows), max(1, int(lengths.max()))), dtype=np.int32)
        for row, target, length in zip(rows, ids, lengths[:, 0]):
            target[:length] = np.frombuffer(row, dtype=np.uint8)[:length]
        truncated = np.array([[len(row) > MAX_TOKENS] for row in rows])
        return pb_utils.InferenceResponse([
            pb_utils.Tensor("INPUT_IDS", ids),
            pb_utils.Tensor("TOKEN_COUNT", lengths),
            pb_utils.Tensor("TRUNCATED", truncated),
        ])
"""

_ENCODER_MODEL = """
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

DIMENSIONS = 8


def toy_vector(data):
    weights = np.arange(1, DIMENSIONS + 1, dtype=np.int64)
    values = (len(data) * 31 + int(np.sum(data, dtype=np.int64)) * weights) % 997 + 1
    vector = values.astype(np.float32)
    return vector / np.sqrt(np.sum(vector * vector))


class TritonPythonModel:
    refusals = 0
    engine = threading.Lock()

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            threading.Thread(target=self.answer, args=(request, sender)).start()

    def answer(self, request, sender):
        ids = pb_utils.get_input_tensor_by_name(request, "INPUT_IDS").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "ROW_LENGTHS").as_numpy()[:, 0]
        rows = [row[:length].astype(np.uint8) for row, length in zip(ids, lengths)]
        words = bytes(rows[0]).decode("utf-8", "replace")
        error = None
        with self.engine:
            if words.startswith("COMPUTE"):
                until = time.monotonic() + float(words.split()[1])
                while time.monotonic() < until:
                    pass
            elif words.startswith("BLOCK"):
                time.sleep(float(words.split()[1]))
        if words.startswith("SLEEP"):
            time.sleep(float(words.split()[1]))
        elif words.startswith("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif words.startswith("OVERLOADED TWICE") and self.refusals < 2:
            type(self).refusals += 1
            error = pb_utils.TritonError("overloaded: as asked", pb_utils.TritonError.UNAVAILABLE)
        elif words.startswith("INTERNAL"):
            error = pb_utils.TritonError("engine failed: as asked", pb_utils.TritonError.INTERNAL)
        elif words.startswith("TELL"):
            told = {"parameters": json.loads(request.parameters()), "timeout": request.timeout(),
                    "python": sys.version.split()[0], "numpy": np.__version__,
                    "prefix": sys.prefix}
            error = pb_utils.TritonError(json.dumps(told), pb_utils.TritonError.INTERNAL)
        if error is None:
            vectors = np.stack([toy_vector(row) for row in rows])
            response = pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", vectors)])
        else:
            response = pb_utils.InferenceResponse(error=error)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def toy_vector(text: str) -> np.ndarray:
    data = np.frombuffer(text.encode(), dtype=np.uint8)[:MAX_TOKENS]
    weights = np.arange(1, DIMENSIONS + 1, dtype=np.int64)
    values = (len(data) * 31 + int(np.sum(data, dtype=np.int64)) * weights) % 997 + 1
    vector = values.astype(np.float32)
    return vector / np.sqrt(np.sum(vector * vector))


def toy_vectors(texts: list[str]) -> np.ndarray:
    return np.stack([toy_vector(text) for text in texts])


def write_toy_repository(folder: Path) -> Path:
    for name, config, model in (
        (MODEL, _ENSEMBLE, None),
        (f"{MODEL}_tokenizer", _TOKENIZER, _TOKENIZER_MODEL),
        (f"{MODEL}_encoder", _ENCODER, _ENCODER_MODEL),
    ):
        version = folder / name / "1"
        version.mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
        if model is not None:
            (version / "model.py").write_text(model)
    return folder
