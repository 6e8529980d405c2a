"""The HTTP gateway: OpenAI's embeddings interface, and those of the servers that people come from.

`create_app` makes the ASGI application, `lasttoken gateway` serves it. It needs the extra
`lasttoken[gateway]`::

    from lasttoken.gateway import GatewaySettings, create_app

    app = create_app(GatewaySettings(url="127.0.0.1:8001"))

A request passes `access` (keys, limits), a dialect (`openai_embeddings`, `tei`, `ollama`, `cohere`:
its shapes only), `embedding_core` (which model, which prompt, which size) and `token_steps`
(Triton).
"""

from __future__ import annotations

from lasttoken.gateway.app import create_app
from lasttoken.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "create_app"]
