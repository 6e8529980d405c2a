"""The arguments of a gRPC channel, from the client's settings."""

from __future__ import annotations

import json
from typing import Any

from lasttoken.options import ClientOptions

_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def channel_arguments(options: ClientOptions) -> list[tuple[str, Any]]:
    """Return gRPC's channel arguments.

    Source: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
    """
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),  # -1: no limit
        ("grpc.max_receive_message_length", -1),
        # After a lost connection try again soon; the waits between attempts are ours.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2000),  # also the time that a connection may take
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Else all clients of a process share a connection, and a new one begins by hearing of the
        # attempts that failed for another one, of a server that answers by now.
        ("grpc.use_local_subchannel_pool", 1),
        # One name may stand for many servers, as a headless service does.
        ("grpc.service_config", _ROUND_ROBIN),
    ]
    keepalive = options.keepalive
    if keepalive is not None:
        arguments += [
            ("grpc.keepalive_time_ms", int(keepalive.interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(keepalive.timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", int(keepalive.without_calls)),
            ("grpc.http2.max_pings_without_data", 0),  # 0: no limit
        ]
    if options.tls is not None and options.tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", options.tls.server_name))
    return arguments


def connection_arguments(options: ClientOptions, address: str) -> dict[str, Any]:
    """Return the arguments of tritonclient's `InferenceServerClient` for one address."""
    return {
        "url": address,
        "creds": None if options.tls is None else options.tls.credentials(),
        "channel_args": channel_arguments(options),
    }
