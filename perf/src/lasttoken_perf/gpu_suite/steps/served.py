"""The exported repository, served by a Triton on this machine, through gRPC."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch  # noqa: TID251 - brings CUDA's libraries
from numpy.typing import NDArray

from lasttoken import EmbeddingClient
from lasttoken.errors import InstallationFailed, ServerStartFailed, UnsupportedPlatform
from lasttoken.local import LocalTriton
from lasttoken_perf.gpu_suite.exported import MODEL, export_repository
from lasttoken_perf.gpu_suite.measuring import Contestant, Rows, measure
from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport, StepUnavailable
from lasttoken_perf.gpu_suite.word_tokenizer import texts_of_rows
from lasttoken_perf.served import CALL_TIMEOUT_S

SUBJECT = "lasttoken server"
_READY_TIMEOUT_S = {"cuda": 500.0, "cpu": 120.0}
_PACKAGES = Path(torch.__file__).parents[1]
_GPU_REQUIREMENTS = Path(__file__).parents[5] / "docker" / "requirements" / "server-gpu.txt"


def torch_library_folders(packages: Path = _PACKAGES) -> list[Path]:
    """Return the folders of CUDA's libraries that torch came with, which the server's lacks.

    Args:
        packages: The folder of packages that holds torch.
    """
    return sorted(path for path in packages.glob("nvidia/*/lib") if any(path.glob("*.so*")))


def run(settings: SuiteSettings) -> StepReport:
    """Serve it and measure what clients see.

    Raises:
        StepUnavailable: No Triton can be had on this machine, or it has no CUDA provider.
        WrongAnswer: Served vectors are not the reference's.
    """
    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    repository = export_repository(weights, settings)
    cache = os.environ.get("LASTTOKEN_CACHE")
    server = LocalTriton(
        repository,
        cache_folder=cache,
        ready_timeout_s=_READY_TIMEOUT_S[settings.device],
        requirements=_GPU_REQUIREMENTS if settings.device == "cuda" else None,
        library_folders=torch_library_folders() if settings.device == "cuda" else (),
        verify=False,  # it has just been written; 14 GB take long to read once more
    )
    try:
        server.start()
    except (UnsupportedPlatform, InstallationFailed, ServerStartFailed) as error:
        raise StepUnavailable(str(error)) from None
    try:
        with EmbeddingClient(server.grpc_url, MODEL) as client:

            def embed(rows: Rows) -> NDArray[np.float32]:
                return client.embed(texts_of_rows(rows), timeout_s=CALL_TIMEOUT_S, priority="bulk")

            def embed_one(rows: Rows) -> NDArray[np.float32]:
                return client.embed(texts_of_rows(rows), timeout_s=CALL_TIMEOUT_S)

            contestant = Contestant(
                subject=SUBJECT,
                version="",
                precision=settings.precision,
                embed_batch=embed_one,
                embed_corpus=embed,
                variant="gRPC, one list",
                pid=server.pid,
            )
            return measure(contestant, settings)
    finally:
        server.stop()
