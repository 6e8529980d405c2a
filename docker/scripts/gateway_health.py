"""Docker's health check of the gateway: asks for /health where this container's gateway listens.

    gateway_health.py [--timeout SECONDS] [--process PID]

Host, port and TLS are the gateway's own: read by its own parser from the command line of the
container's first process, and from the environment that it shares. The certificate is not checked:
the check does not leave this machine. Where callers need a certificate of their own it has none,
and a TLS handshake has to do.

Exit codes: 0 alive, 1 not, 2 wrong usage.
"""

import argparse
import http.client
import ipaddress
import ssl
import sys
from pathlib import Path

from lasttoken.commands.gateway import GATEWAY


def gateway_arguments(process):
    """Return the arguments of a process that is a gateway, or that started one (an init)."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")[:-1]
    parser = argparse.ArgumentParser(prog="lasttoken gateway")
    GATEWAY.add_arguments(parser)
    name = GATEWAY.name
    return parser.parse_args(words[words.index(name) + 1 :] if name in words else [])


def own_address(host):
    """Return an address of this machine at which a gateway bound to ``host`` answers."""
    try:
        bound = ipaddress.ip_address(host)
    except ValueError:
        return host
    if bound.is_unspecified:
        return "127.0.0.1" if bound.version == 4 else "::1"
    return host


def why_not(arguments, timeout_s):
    """Return None when the gateway is alive, or why it is not."""
    place = {"host": own_address(arguments.host), "port": arguments.port, "timeout": timeout_s}
    if arguments.tls_certificate is None:
        connection = http.client.HTTPConnection(**place)
    else:
        context = ssl._create_unverified_context()  # noqa: S323 - the name is not ours
        connection = http.client.HTTPSConnection(**place, context=context)
    try:
        connection.connect()
        if arguments.tls_client_ca is not None:
            return None  # a request would be turned away: the handshake has to do
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"/health says {status}"


def main():
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(prog="gateway_health.py", description="Is the gateway alive?")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds")
    parser.add_argument("--process", default="1", help="process that is the gateway")
    options = parser.parse_args()
    reason = why_not(gateway_arguments(options.process), options.timeout)
    if reason is not None:
        sys.stderr.write(f"gateway: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
