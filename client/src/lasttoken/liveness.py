"""Whether a server works, told by what it answers to a probe.

A probe is one short text of the class `"probe"`, which passes what waits in the encoder: a full
queue and a long one are no failure.
"""

from __future__ import annotations

from lasttoken.errors import DeadlineExceeded, InvalidInput, LasttokenError, ServerOverloaded
from lasttoken.options import Priority

PROBE_CLASSES: tuple[Priority, ...] = ("probe", "interactive")
"""Tried in turn: an encoder exported before there were probes knows no such class."""


def is_only_busy(error: LasttokenError) -> bool:
    """Whether a probe failed in a way that only a working server makes it fail."""
    if isinstance(error, ServerOverloaded):
        return True
    # Said by the encoder: it works off its queue. Said by gRPC: nobody answered.
    return isinstance(error, DeadlineExceeded) and "waited past its timeout" in str(error)


def is_unknown_class(error: LasttokenError) -> bool:
    """Whether the encoder refused a request for its class, whose name it does not know."""
    return isinstance(error, InvalidInput) and "service_class is" in str(error)
