"""Which failures of a probe are those of a server that works."""

import asyncio
from types import SimpleNamespace

import pytest
from encode_errors import InvalidRows
from encode_request import parse_service_class

from lasttoken import (
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    ServerError,
    ServerOverloaded,
)
from lasttoken.gateway import operations
from lasttoken.liveness import is_only_busy, is_unknown_class
from lasttoken.local import supervisor

OVERLOADED = ServerOverloaded("m: overloaded: 9 of 9 tokens are waiting (UNAVAILABLE)")
BROKEN = ServerError("m: the engine failed")


@pytest.mark.parametrize(
    ("error", "busy"),
    [
        (ServerOverloaded("overloaded: 9 of 9 tokens are waiting"), True),
        (DeadlineExceeded("deadline exceeded: the request waited past its timeout"), True),
        (DeadlineExceeded("Deadline Exceeded"), False),  # gRPC's: nobody answered
        (ModelUnavailable("the stub process is not healthy"), False),
        (ServerError("the engine failed"), False),
    ],
)
def test_only_a_working_server_is_busy(error, busy):
    assert is_only_busy(error) is busy


def unknown_class():
    """What an encoder says to a class that it does not know."""
    with pytest.raises(InvalidRows) as refused:
        parse_service_class("a class of tomorrow")
    return InvalidInput(f"m: {refused.value} (INVALID_ARGUMENT)")


def test_an_encoder_that_knows_no_probes_is_told_from_other_refusals():
    assert is_unknown_class(unknown_class())
    assert not is_unknown_class(InvalidInput("m: prompt 'x' is unknown"))
    assert not is_unknown_class(OVERLOADED)


CASES = [
    ({"probe": None}, ["probe"], True),
    ({"probe": OVERLOADED}, ["probe"], True),
    ({"probe": BROKEN}, ["probe"], False),
    ({"probe": unknown_class(), "interactive": None}, ["probe", "interactive"], True),
    ({"probe": unknown_class(), "interactive": OVERLOADED}, ["probe", "interactive"], True),
    ({"probe": unknown_class(), "interactive": BROKEN}, ["probe", "interactive"], False),
]


@pytest.mark.parametrize(("answers", "asked", "alive"), CASES)
def test_the_supervisor_asks_an_old_encoder_in_the_old_way(monkeypatch, answers, asked, alive):
    seen = []

    class Client:
        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            pass

        def embed(self, text, *, timeout_s, priority):
            seen.append(priority)
            if answers[priority] is not None:
                raise answers[priority]

    monkeypatch.setattr(supervisor, "EmbeddingClient", Client)
    assert (supervisor.probe_model("127.0.0.1:1", "m", 1) is None) is alive
    assert seen == asked


@pytest.mark.parametrize(("answers", "asked", "alive"), CASES)
def test_a_busy_server_is_ready_and_an_old_encoder_too(monkeypatch, answers, asked, alive):
    seen = []

    async def embed(job, directory, exchange, *, timeout_s):
        seen.append(job.priority)
        if answers[job.priority] is not None:
            raise answers[job.priority]

    async def models():
        return [SimpleNamespace(name="m")]

    monkeypatch.setattr(operations, "embed", embed)
    gateway = SimpleNamespace(
        access=SimpleNamespace(open_to_all=True),
        directory=SimpleNamespace(all=models),
        settings=SimpleNamespace(timeout_s=5.0),
    )
    checks = operations.Operations(gateway)
    asyncio.run(checks._check())
    assert (checks._failure is None) is alive
    assert seen == asked
