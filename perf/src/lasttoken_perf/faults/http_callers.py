"""Callers over HTTP: OpenAI's own package, with gateways behind one address as a Service has."""

from __future__ import annotations

import base64
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.faults.load import Load
from lasttoken_perf.faults.stage import Stage

PROBE_S = 0.25
"""Time between two looks at a gateway's readiness."""


class OpenAICaller:
    """Embeds through gateways as a user of the openai package does.

    The gateways stand behind one address, as pods behind a Service of Kubernetes do: connections go
    to those that say that they are ready, in turn, and a caller knows nothing of them.

    Args:
        urls: ``http://host:port`` of each gateway.
        model: The ensemble.
        retries: Second tries of a request that the package makes; None leaves it its own way.
    """

    def __init__(self, urls: Sequence[str], model: str, *, retries: int | None = None) -> None:
        import httpx
        import openai

        self._service = _service(urls)
        chosen = {} if retries is None else {"max_retries": retries}
        self._openai = openai.OpenAI(
            base_url="http://gateway.invalid/v1",
            api_key="unused",
            http_client=httpx.Client(transport=self._service),
            **chosen,
        )
        self._model = model

    def embed(self, text: str, *, timeout_s: float) -> NDArray[np.float32]:
        """Return a text's vector, ``[dim]``."""
        answer = self._openai.with_options(timeout=timeout_s).embeddings.create(
            model=self._model, input=text, encoding_format="base64"
        )
        encoded: Any = answer.data[0].embedding  # a string, as base64 was asked for
        return np.frombuffer(base64.b64decode(encoded), "<f4")

    def close(self) -> None:
        """End the connections and the probes."""
        self._openai.close()


def openai_load(stage: Stage, urls: Sequence[str], *, retries: int | None = None) -> Load:
    """Callers through gateways; see `OpenAICaller`."""
    import openai

    return Load(
        lambda: OpenAICaller(urls, stage.model, retries=retries),
        stage.expected,
        errors=(openai.OpenAIError,),
    )


def says_ready(url: str) -> bool:
    """Whether a gateway says that it can take requests."""
    import httpx

    try:
        return bool(httpx.get(f"{url}/ready", timeout=2.0).status_code == 200)
    except httpx.HTTPError:
        return False


def _service(urls: Sequence[str]) -> Any:
    import httpx

    class Service(httpx.BaseTransport):  # type: ignore[misc]  # types of httpx are not read
        """Sends each request to the next gateway that is ready."""

        def __init__(self) -> None:
            self._pool = httpx.HTTPTransport()
            self._addresses = [httpx.URL(url) for url in urls]
            self._ready = list(self._addresses)
            self._turn = itertools.count()
            self._closed = threading.Event()
            if len(urls) > 1:  # one alone has no other to give its requests to
                threading.Thread(target=self._probe, daemon=True).start()

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            ready = self._ready or self._addresses
            address = ready[next(self._turn) % len(ready)]
            request.url = request.url.copy_with(
                scheme=address.scheme, host=address.host, port=address.port
            )
            return self._pool.handle_request(request)

        def close(self) -> None:
            self._closed.set()
            self._pool.close()

        def _probe(self) -> None:
            while not self._closed.wait(PROBE_S):
                self._ready = [url for url in self._addresses if says_ready(str(url))]

    return Service()
