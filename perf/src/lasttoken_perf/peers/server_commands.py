"""How each peer's server is started, and what a request to it says beside the texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lasttoken_perf.peers.contestants import Material, PeerKind

MODEL_NAME = "model"
"""Of the model in requests."""
_LOOPBACK = ["--host", "127.0.0.1", "--port", "{port}"]
_VLLM_KEYS_AND_VALUES_GB = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """One server.

    Attributes:
        command: Command line; ``{port}`` stands for the port.
        path: Of its embeddings route.
        fields: Of a request, beside the model and the texts.
        variables: Environment variables beside those of every peer.
        forget_path: Route that makes it forget what it keeps of texts embedded before; None for
            none. Repeats send the same texts, which no user does.
    """

    command: list[str]
    path: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    forget_path: str | None = None


def _infinity(_: PeerKind, material: Material, python: Path) -> ServerCommand:
    command = [str(python.parent / "infinity_emb"), "v2", "--model-id", str(material.hf_folder),
               "--served-model-name", MODEL_NAME, "--engine", "torch", "--device", "cpu",
               "--dtype", "float32", "--no-bettertransformer", "--batch-size", "32",
               *_LOOPBACK]  # fmt: skip
    return ServerCommand(command=command, path="/embeddings", fields={"encoding_format": "base64"})


def _llama_cpp(peer: PeerKind, material: Material, python: Path) -> ServerCommand:
    tokens = str(material.max_length)
    command = [str(python), "-m", "llama_cpp.server",
               "--model", str(material.folder / f"{peer.precision}.gguf"),
               "--model_alias", MODEL_NAME, "--embedding", "True", "--n_ctx", tokens,
               "--n_batch", tokens, "--n_ubatch", tokens, "--n_threads", str(material.threads),
               "--n_threads_batch", str(material.threads), "--interrupt_requests", "False",
               "--verbose", "False", *_LOOPBACK]  # fmt: skip
    return ServerCommand(command=command, path="/v1/embeddings")


def int8_folder(material: Material) -> Path:
    """Where vLLM's int8 weights are written for it."""
    return material.folder / "huggingface-int8"


def _vllm(peer: PeerKind, material: Material, python: Path) -> ServerCommand:
    """Start vLLM on the CPU, with Intel's OpenMP, which its pages advise, on all cores.

    Of itself it leaves one core to its other processes, and computes in bfloat16 whatever is not in
    int8. Its ``vllm`` command asks for a package of that name, which the CPU build is not; the
    module is the same server.

    Source: https://docs.vllm.ai/en/latest/getting_started/installation/cpu/
    """
    weights = int8_folder(material) if peer.precision == "int8" else material.hf_folder
    floats = "float32" if peer.precision == "fp32" else "bfloat16"
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server",
               "--model", str(weights), "--served-model-name", MODEL_NAME,
               "--runner", "pooling", "--dtype", floats,
               "--max-model-len", str(material.max_length), *_LOOPBACK]  # fmt: skip
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    variables = {
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "VLLM_CPU_KVCACHE_SPACE": str(_VLLM_KEYS_AND_VALUES_GB),
        "VLLM_CACHE_ROOT": str(material.cache_folder / "peer-vllm-compiled"),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # opens the route that empties its cache
    }
    openmp = python.parents[1] / "lib" / "libiomp5.so"
    if openmp.is_file():
        variables["LD_PRELOAD"] = str(openmp)
    return ServerCommand(
        command=command,
        path="/v1/embeddings",
        fields={"encoding_format": "base64", "truncate_prompt_tokens": -1},
        variables=variables,
        forget_path="/reset_prefix_cache",
    )


SERVERS: Mapping[str, Callable[[PeerKind, Material, Path], ServerCommand]] = {
    "infinity": _infinity,
    "llama_cpp": _llama_cpp,
    "vllm": _vllm,
}
"""By the name of a peer's environment."""
