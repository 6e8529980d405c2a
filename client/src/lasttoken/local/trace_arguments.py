"""Triton's own traces: the arguments that send its spans to a collector.

Source: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/trace.html
"""

from __future__ import annotations

from lasttoken.errors import InvalidInput

_SEND_EVERY_MS = 1000


def trace_arguments(otlp_endpoint: str | None, rate: int) -> list[str]:
    """Return arguments of `tritonserver`; none without a collector.

    Args:
        otlp_endpoint: OTLP over HTTP, such as `http://collector:4318`; None for no traces.
        rate: One request of so many gets a trace.

    Raises:
        InvalidInput: The endpoint is no HTTP address, or the rate is not positive.
    """
    if otlp_endpoint is None:
        return []
    if not otlp_endpoint.startswith(("http://", "https://")):
        raise InvalidInput(f"otlp_endpoint is {otlp_endpoint!r}; write http://HOST:4318")
    if rate < 1:
        raise InvalidInput(f"trace_rate is {rate!r}; it must be 1 or more")
    return [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={otlp_endpoint.rstrip('/')}/v1/traces",
        "--trace-config=opentelemetry,resource=service.name=lasttoken-triton",
        f"--trace-config=opentelemetry,bsp_schedule_delay={_SEND_EVERY_MS}",
        f"--trace-config=rate={rate}",
        "--trace-config=level=TIMESTAMPS",
    ]
