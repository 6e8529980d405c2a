"""Every gRPC status has one error."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from tritonclient.utils import InferenceServerException

import lasttoken.errors as errors
from lasttoken import (
    DeadlineExceeded,
    InputTooLong,
    InvalidInput,
    LasttokenError,
    ModelNotFound,
    ModelUnavailable,
    ProtocolMismatch,
    RequestCancelled,
    ServerOverloaded,
)
from lasttoken.statuses import ERROR_OF_STATUS, error_of_status, error_of_triton


def test_every_status_of_grpc_is_mapped():
    assert set(ERROR_OF_STATUS) == set(grpc.StatusCode)


@pytest.mark.parametrize("status", list(grpc.StatusCode), ids=lambda status: status.name)
def test_a_status_gives_its_error_with_message_status_and_model(status):
    raised = InferenceServerException(msg="what happened", status=str(status))
    error = error_of_triton(raised, asked="m")
    assert type(error) is ERROR_OF_STATUS[status]
    assert isinstance(error, LasttokenError)
    assert error.status == status.name
    assert str(error) == f"m: what happened ({status.name})"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("UNAVAILABLE", "overloaded: 9 of 9 tokens", ServerOverloaded),
        ("UNAVAILABLE", "in ensemble 'm', overloaded: 9", ServerOverloaded),
        ("UNAVAILABLE", "the word overloaded: does not begin it", ModelUnavailable),
        ("UNAVAILABLE", "in ensemble 'm', deadline exceeded: late", DeadlineExceeded),
        ("UNAVAILABLE", "Request for unknown model: 'x' is not found", ModelNotFound),
        ("UNAVAILABLE", "failed to connect to all addresses", ModelUnavailable),
        ("NOT_FOUND", "Request for unknown model: 'm' has no available versions", ModelUnavailable),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", ModelNotFound),
        ("CANCELLED", "CANCELLED", ModelUnavailable),
        ("CANCELLED", "Channel closed!", RequestCancelled),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (5 vs. 4)", InputTooLong),
        ("RESOURCE_EXHAUSTED", "quota", ServerOverloaded),
        (
            "INVALID_ARGUMENT",
            "in ensemble 'm', TEXT 3 has 9 bytes; shorten or split it",
            InputTooLong,
        ),
        ("INVALID_ARGUMENT", "the request has 9 tokens; send fewer texts a request", InputTooLong),
        ("INVALID_ARGUMENT", "PROMPT_NAME is 'x'", InvalidInput),
        ("INTERNAL", "overloaded: not here", errors.ServerError),
    ],
)
def test_the_message_refines_what_triton_says_in_one_status(status, message, kind):
    assert type(error_of_status(grpc.StatusCode[status], message, asked="m")) is kind


def test_tritonclients_own_complaints_are_a_mismatch_and_other_errors_pass():
    complaint = InferenceServerException(msg="cannot read this")
    assert type(error_of_triton(complaint, asked="m")) is ProtocolMismatch
    with pytest.raises(KeyError):
        error_of_triton(KeyError("not tritonclient's"), asked="m")


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    names = [line.split("──")[1].split()[0] for line in drawn]
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LasttokenError)
    }
    assert set(names) == defined - {"LasttokenError"}
    parents = ["LasttokenError"]
    for line, name in zip(drawn, names, strict=True):
        depth = line.index("──") // 4
        assert getattr(errors, name).__mro__[1].__name__ == parents[depth - 1]
        parents[depth:] = [name]
    assert issubclass(InvalidInput, ValueError)


def test_the_servers_own_words_are_recognised():
    """The phrases that refine a status stand in the server's sources."""
    sources = Path(__file__).parents[3] / "model_repository"
    text = "\n".join(path.read_text() for path in sources.glob("*/1/*.py"))
    for phrase in ("overloaded: {", "deadline exceeded: ", "shorten or split it", "fewer texts"):
        assert phrase in text


@pytest.mark.parametrize("name", ["UNAVAILABLE", "NOT_FOUND"])
def test_a_model_that_is_not_there_comes_with_where_to_look(name):
    raised = InferenceServerException(
        msg="Request for unknown model: 'x' is not found", status=f"StatusCode.{name}"
    )
    assert "`lasttoken models`, says what is served" in str(error_of_triton(raised, asked="x"))


def test_a_port_that_speaks_no_grpc_is_said_to_be_perhaps_another():
    message = "connections to all backends failing; last error: ipv4:127.0.0.1:8000: Socket closed"
    raised = InferenceServerException(msg=message, status="StatusCode.UNAVAILABLE")
    assert "HTTP port is 8000" in str(error_of_triton(raised, asked="x"))
