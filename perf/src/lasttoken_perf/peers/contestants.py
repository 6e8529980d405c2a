"""Everyone who takes part, brought to one form: what each can be asked, and how to start it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import PeerFailed, ToolUnavailable
from lasttoken_perf.peers.environment import (
    install_peer,
    peer_variables,
    pinned_version,
    stage_package,
)
from lasttoken_perf.peers.http_server import HttpPeer
from lasttoken_perf.peers.process import PeerProcess, PeerRun
from lasttoken_perf.peers.server_commands import MODEL_NAME, SERVERS, int8_folder
from lasttoken_perf.peers.vllm_weights import write_int8_folder

BARE, SERVED = "bare engine", "lasttoken server"
LIBRARY, SERVER = "library", "server"
CORPUS, MIXED, SINGLE = "corpus", "mixed", "single"
LIST_SIZE = 32
"""Texts of a request when a corpus is sent to a peer's server, two requests at a time."""

_TEI_POOLING = {"last_token": "last-token", "cls": "cls", "mean": "mean"}


def not_started(pooling: str) -> dict[str, str]:
    """Return peers that this suite does not start, with the reason and how a user starts them.

    Both speak ``/v1/embeddings``.

    Args:
        pooling: ``last_token``, ``cls`` or ``mean``.

    Source: https://docs.vllm.ai/en/v0.18.0/models/pooling_models and
    https://huggingface.co/docs/text-embeddings-inference/quick_tour
    """
    image = "ghcr.io/huggingface/text-embeddings-inference"
    options = f"--model-id MODEL --pooling {_TEI_POOLING[pooling]}"
    return {
        "vLLM on a GPU": "this suite starts its build for processors; there: vllm serve MODEL "
        "--runner pooling --dtype bfloat16 --port 8080",
        "text-embeddings-inference": "comes as a container, and this suite starts none; with a "
        f"GPU: docker run --gpus all -p 8080:80 {image}:1.8 {options} --dtype float16; without: "
        f"docker run -p 8080:80 {image}:cpu-1.8 {options}",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One who takes part.

    Attributes:
        name: Subject of its rows.
        kind: `LIBRARY` or `SERVER`; each is compared with its like.
        precision: Of its weights.
        version: Its version.
        pid: Its process.
        loads: What it can be asked, by name; each returns the vectors of the texts (of the queries
            for `SINGLE`).
    """

    name: str
    kind: str
    precision: str
    version: str
    pid: int | None
    loads: Mapping[str, Callable[[], PeerRun]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What every peer gets: the same weights and the same texts.

    Attributes:
        texts: With the default prompt written out.
        queries: Short ones, likewise.
        hf_folder: The weights as a Hugging Face folder in fp32.
        gguf: The weights as a GGUF file of a decoder, or None.
        pooling: ``last_token``, ``cls`` or ``mean``.
        max_length: Longest text in tokens.
        threads: Cores that a peer may use.
        clients: Requests at a time of the mixed load.
        folder: Work folder.
        cache_folder: Where environments are kept.
    """

    texts: list[str]
    queries: list[str]
    hf_folder: Path
    gguf: Path | None
    pooling: str
    max_length: int
    threads: int
    clients: int
    folder: Path
    cache_folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKind:
    """A peer that could take part.

    Attributes:
        name: As in the table.
        environment: File of its requirements.
        start: Starts it in an environment.
        precision: Of its weights.
    """

    name: str
    environment: str
    precision: str
    start: Callable[[PeerKind, Material, Path, Mapping[str, str], ExitStack], Contestant]
    settings: Mapping[str, Any] = field(default_factory=dict)


def start_peer(
    peer: PeerKind, material: Material, stack: ExitStack, say: Callable[[str], None]
) -> Contestant | str:
    """Install and start a peer; the contestant, or why it cannot run here.

    Args:
        peer: The peer.
        material: Weights and texts.
        stack: Ends it.
        say: Told what is being done.
    """
    if peer.environment == "llama_cpp" and material.gguf is None:
        return "llama.cpp gets its weights from a GGUF file, and this model has none"
    try:
        python = install_peer(peer.environment, material.cache_folder, say)
        variables = peer_variables(stage_package(material.folder))
        if peer.environment == "llama_cpp":
            write_llama_cpp_file(peer, material, python, variables)
        if peer.environment == "vllm" and peer.precision == "int8":
            write_int8_folder(material.hf_folder, int8_folder(material))
        say(f"starting {peer.name}")
        return peer.start(peer, material, python, variables, stack)
    except (ToolUnavailable, PeerFailed, OSError) as error:
        return str(error)


def _start_library(
    peer: PeerKind, material: Material, python: Path, variables: Mapping[str, str], stack: ExitStack
) -> Contestant:
    settings = {
        "folder": str(material.hf_folder),
        "file": str(material.folder / f"{peer.precision}.gguf"),
        "texts": material.texts,
        "queries": material.queries,
        "pooling": material.pooling,
        "max_length": material.max_length,
        "context_tokens": material.max_length,
        "threads": material.threads,
        "precision": peer.precision,
        **peer.settings,
    }
    folder = material.folder / peer.name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    process = stack.enter_context(
        PeerProcess(
            f"lasttoken_perf.peers.{peer.settings['module']}",
            settings,
            folder,
            python=python,
            variables=variables,
        )
    )
    return Contestant(
        name=peer.name,
        kind=LIBRARY,
        precision=peer.precision,
        version=process.version,
        pid=process.pid,
        loads={CORPUS: process.corpus, SINGLE: process.single},
    )


def _start_server(
    peer: PeerKind, material: Material, python: Path, variables: Mapping[str, str], stack: ExitStack
) -> Contestant:
    how = SERVERS[peer.environment](peer, material, python)
    server = stack.enter_context(
        HttpPeer(
            peer.name,
            how.command,
            variables={**variables, **how.variables},
            folder=material.folder,
            path=how.path,
            model=MODEL_NAME,
            version=pinned_version(peer.environment),
            fields=how.fields,
            forget_path=how.forget_path,
        )
    )
    return Contestant(
        name=peer.name,
        kind=SERVER,
        precision=peer.precision,
        version=server.version,
        pid=server.pid,
        loads={
            CORPUS: lambda: server.lists(material.texts, size=LIST_SIZE, clients=2),
            MIXED: lambda: server.one_by_one(material.texts, clients=material.clients),
            SINGLE: lambda: server.one_by_one(material.queries, clients=1),
        },
    )


_LLAMA_CPP_TYPES = {"fp32": "ALL_F32", "q8_0": "MOSTLY_Q8_0"}


def write_llama_cpp_file(
    peer: PeerKind, material: Material, python: Path, variables: Mapping[str, str]
) -> None:
    """Write the weights that llama.cpp's library and its server load, once for both.

    Args:
        peer: Either; its precision decides the file's type.
        material: Has the model's GGUF file, and the folder for this one.
        python: Of llama.cpp's environment.
        variables: Environment variables of its processes.

    Raises:
        PeerFailed: llama.cpp could not.
    """
    file = material.folder / f"{peer.precision}.gguf"
    if file.is_file():
        return
    code = (
        "import sys; from lasttoken_perf.peers.llama_cpp import write_file as w; w(*sys.argv[1:])"
    )
    written = subprocess.run(
        [python, "-c", code, str(material.gguf), str(file), _LLAMA_CPP_TYPES[peer.precision]],
        env=dict(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if written.returncode:
        raise PeerFailed(f"llama.cpp wrote no {file.name}: {written.stderr[-300:]}")


PEERS = (
    PeerKind(name="sentence-transformers", environment="sentence_transformers", precision="fp32",
             start=_start_library, settings={"module": "sentence_transformers"}),
    PeerKind(name="transformers", environment="sentence_transformers", precision="fp32",
             start=_start_library, settings={"module": "torch_models", "library": "transformers"}),
    PeerKind(name="optimum ONNX Runtime", environment="optimum", precision="fp32",
             start=_start_library, settings={"module": "torch_models", "library": "optimum"}),
    PeerKind(name="OpenVINO fp32", environment="openvino", precision="fp32",
             start=_start_library, settings={"module": "torch_models", "library": "openvino"}),
    PeerKind(name="OpenVINO bf16", environment="openvino", precision="bf16",
             start=_start_library, settings={"module": "torch_models", "library": "openvino"}),
    PeerKind(name="OpenVINO int8", environment="openvino", precision="int8",
             start=_start_library, settings={"module": "torch_models", "library": "openvino"}),
    PeerKind(name="llama.cpp f32", environment="llama_cpp", precision="fp32",
             start=_start_library, settings={"module": "llama_cpp"}),
    PeerKind(name="llama.cpp q8_0", environment="llama_cpp", precision="q8_0",
             start=_start_library, settings={"module": "llama_cpp"}),
    PeerKind(name="Infinity server", environment="infinity", precision="fp32",
             start=_start_server),
    PeerKind(name="vLLM server fp32", environment="vllm", precision="fp32", start=_start_server),
    PeerKind(name="vLLM server bf16", environment="vllm", precision="bf16", start=_start_server),
    PeerKind(name="vLLM server int8", environment="vllm", precision="int8", start=_start_server),
    PeerKind(name="llama.cpp server f32", environment="llama_cpp", precision="fp32",
             start=_start_server),
    PeerKind(name="llama.cpp server q8_0", environment="llama_cpp", precision="q8_0",
             start=_start_server),
)  # fmt: skip
"""The peers."""
