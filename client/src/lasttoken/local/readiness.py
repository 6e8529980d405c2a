"""When is a server ready? When every model that clients call has answered a real request.

Triton's own readiness says that models are loaded; it keeps saying so after a Python model's
process has died. So the last word is an inference through the whole ensemble.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from lasttoken.errors import ServerStartFailed
from lasttoken.local.process import ServerProcess
from lasttoken.local.repository import RepositoryModel
from lasttoken.local.server_log import explain

PROBE_TEXT = "ready"

_POLL_S = 0.1


def wait_until_ready(
    process: ServerProcess,
    grpc_url: str,
    models: Sequence[RepositoryModel],
    *,
    server_id: str,
    timeout_s: float,
) -> None:
    """Wait for the server's own readiness, then send one text through each text ensemble.

    Args:
        process: The server.
        grpc_url: Where it should answer.
        models: The models of its repository.
        server_id: What it calls itself; a stranger on that port is not taken for it.
        timeout_s: Time for everything, in seconds.

    Raises:
        ServerStartFailed: The process ended, an inference failed, or the time is over; the message
            holds the end of the server's log.
    """
    deadline = time.monotonic() + timeout_s
    with triton.InferenceServerClient(grpc_url) as client:
        while not _says_ready(client, server_id, deadline):
            if process.exit_code is not None:
                raise _failure(process, f"tritonserver ended with exit code {process.exit_code}")
            if time.monotonic() >= deadline:
                raise _failure(process, f"tritonserver was not ready after {timeout_s:g} s")
            process.wait(_POLL_S)
        for model in models:
            if model.takes_text:
                _probe(client, model.name, process, deadline)


def _says_ready(client: triton.InferenceServerClient, server_id: str, deadline: float) -> bool:
    remaining_s = min(5.0, max(0.1, deadline - time.monotonic()))
    try:
        if not client.is_server_ready(client_timeout=remaining_s):
            return False
        return bool(client.get_server_metadata(client_timeout=remaining_s).name == server_id)
    except InferenceServerException:
        return False


def _probe(
    client: triton.InferenceServerClient, model: str, process: ServerProcess, deadline: float
) -> None:
    text = triton.InferInput("TEXT", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[PROBE_TEXT.encode()]], dtype=np.object_))
    try:
        result = client.infer(model, [text], client_timeout=max(0.1, deadline - time.monotonic()))
    except InferenceServerException as error:
        raise _failure(
            process,
            f"the first inference through {model!r} failed: {error.status()}: {error.message()}",
        ) from error
    embedding = result.as_numpy("EMBEDDING")
    if embedding is None or embedding.ndim != 2 or not np.isfinite(embedding).all():
        shape = None if embedding is None else embedding.shape
        raise _failure(
            process, f"the first inference through {model!r} gave no finite vector (shape {shape})"
        )


def _failure(process: ServerProcess, what: str) -> ServerStartFailed:
    return ServerStartFailed(f"{what}; from its log:\n{explain(process.log())}")
