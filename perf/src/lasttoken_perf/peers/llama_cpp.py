"""llama.cpp as a library (llama-cpp-python), on the same weights as a GGUF file."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.peers.process import Embedder, serve_peer

_LAST = 3
"""LLAMA_POOLING_TYPE_LAST"""
_INTEGER = 0
"""LLAMA_KV_OVERRIDE_TYPE_INT"""


def load(settings: dict[str, Any]) -> Embedder:
    """Load ``file``, which `write_file` has written."""
    import llama_cpp

    model = llama_cpp.Llama(
        settings["file"],
        embedding=True,
        n_ctx=settings["context_tokens"],
        n_batch=settings["context_tokens"],
        n_ubatch=settings["context_tokens"],
        n_threads=settings["threads"],
        n_threads_batch=settings["threads"],
        verbose=False,
    )
    texts, queries = settings["texts"], settings["queries"]

    def embed(batch: list[str]) -> NDArray[np.float32]:
        return np.array(model.embed(batch, normalize=True), np.float32)

    embed(texts[:4])  # warm
    return Embedder(
        version=llama_cpp.__version__,
        corpus=lambda: embed(texts),
        single=lambda index: embed([queries[index]])[0],
    )


def write_file(source: str, target: str, file_type: str) -> None:
    """Requantise a GGUF file, with last-token pooling among its metadata.

    Its server has no option for the pooling; it takes what the file says.

    Args:
        source: GGUF file of the model.
        target: What is written.
        file_type: Its LLAMA_FTYPE: "ALL_F32" or "MOSTLY_Q8_0".

    Raises:
        RuntimeError: llama.cpp could not.
    """
    import llama_cpp

    overrides = (llama_cpp.llama_model_kv_override * 2)()
    overrides[0].tag = _INTEGER
    overrides[0].key = b"llama.pooling_type"
    overrides[0].value.val_i64 = _LAST
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{file_type}")
    options.allow_requantize = True
    options.kv_overrides = ctypes.cast(overrides, type(options.kv_overrides))
    failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options))
    if failed:
        raise RuntimeError(f"llama.cpp could not write {target} as {file_type}")


if __name__ == "__main__":
    serve_peer(load)
