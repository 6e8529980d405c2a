"""The metadata of one call: the client's own, the bearer token, and the caller's trace."""

from __future__ import annotations

import sys

from lasttoken.options import ClientOptions
from lasttoken.security import check_token


def call_headers(options: ClientOptions) -> dict[str, str]:
    """Return the gRPC metadata of a call that starts now.

    The current OpenTelemetry context goes along (`traceparent`, `baggage`: whatever the configured
    propagators write) where the program has loaded the OpenTelemetry API; without a span there is
    nothing to add.
    """
    headers = dict(options.headers)
    token = options.token
    if token is not None:
        if callable(token):
            token = token()
            check_token(token)
        headers["authorization"] = f"Bearer {token}"
    if "opentelemetry.context" in sys.modules:  # nobody has a span who has not loaded it
        from opentelemetry.propagate import inject

        inject(headers)
    return headers
