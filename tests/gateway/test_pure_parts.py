"""Parts of the gateway that need no server."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import numpy as np
import pytest

import lasttoken.errors as errors
from lasttoken import InvalidInput, LasttokenError
from lasttoken.gateway import GatewaySettings, create_app
from lasttoken.gateway.embedding_route import _ESCAPES
from lasttoken.gateway.prompt_choice import PromptChoice
from lasttoken.gateway.refusals import KIND_OF_ERROR, Refusal, refusal_of
from lasttoken.gateway.token_ids import TokenContract, completed_row
from lasttoken.gateway.token_steps import MAX_REQUEST_TOKENS, split_by_tokens
from lasttoken.gateway.vector_json import PIECE_ELEMENTS, array_pieces, base64_text, dumps


def test_every_error_has_exactly_one_status():
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, LasttokenError)
    }
    assert set(KIND_OF_ERROR) == defined
    for kind in defined:
        refusal = refusal_of(kind("at 10.0.0.7: inside", status="UNKNOWN"))
        assert refusal.kind.status in (400, 404, 413, 429, 500, 502, 503, 504)
        assert ("10.0.0.7" in str(refusal)) == (refusal.kind.status < 500)
        assert ("retry-after" in refusal.headers) == (refusal.kind.status == 503)


CONTRACT = TokenContract(opening_ids=(1,), closing_ids=(8, 2), vocab_size=100, max_length=6)


@pytest.mark.parametrize(
    ("ids", "row"),
    [
        ([5], [1, 5, 8, 2]),
        ([1, 5], [1, 5, 8, 2]),
        ([5, 8, 2], [1, 5, 8, 2]),
        ([1, 5, 8, 2], [1, 5, 8, 2]),
        ([5, 2], [1, 5, 2, 8, 2]),
        ([1], [1, 8, 2]),
    ],
)
def test_missing_special_tokens_are_added_and_present_ones_kept(ids, row):
    completed = completed_row(ids, CONTRACT, index=0, model="m")
    assert completed.tolist() == row
    assert completed.dtype == np.int32


def test_one_token_that_opens_and_closes_is_not_counted_twice():
    contract = TokenContract(opening_ids=(3,), closing_ids=(3,), vocab_size=9, max_length=6)
    assert completed_row([3], contract, index=0, model="m").tolist() == [3, 3]


@pytest.mark.parametrize(
    ("ids", "status", "words"),
    [
        ([], 400, r"input\[4\] holds no token"),
        ([7, 100], 400, r"input\[4\]\[1\] is 100; the vocabulary of m is 0 to 99"),
        ([-1], 400, "is -1"),
        ([5] * 4, 413, "7 tokens with the special ones; the maximum of m is 6"),
    ],
)
def test_rows_that_the_model_cannot_read_are_refused(ids, status, words):
    with pytest.raises(Refusal, match=words) as refusal:
        completed_row(ids, CONTRACT, index=4, model="m")
    assert refusal.value.kind.status == status


def test_a_long_text_full_of_escapes_is_searched_in_long_steps():
    """While a broken request is looked through, nobody else is served."""
    text = rb"\n\u00e4\\\"" * 10_000
    halves = [rb"", rb"\ud800", rb"\ud83d\ude00", rb"\\ud800", rb"\ud83d\ude00\uDC00"]
    for half, found in zip(halves, [[], [rb"\ud800"], [], [], [rb"\uDC00"]], strict=True):
        escapes = list(_ESCAPES.finditer(text + half + text))
        assert [escape[1] for escape in escapes if escape[1]] == found
        assert len(escapes) < 100


def test_prompts_are_chosen_once():
    assert PromptChoice(input_type="query").name_among(("document", "query")) == "query"
    assert PromptChoice(input_type="passage").name_among(("search_document",)) == "search_document"
    assert PromptChoice(input_type="query").name_among(("sentence",)) is None
    assert PromptChoice(prompt_name="x").name_among(()) == "x"
    for both in (
        {"prompt_name": "a", "instruction": "b"},
        {"prompt_name": "a", "input_type": "query"},
        {"input_type": "question"},
    ):
        with pytest.raises(Refusal):
            PromptChoice(**both)


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (7, 4096), (3, PIECE_ELEMENTS + 1)])
def test_vectors_survive_json_bit_by_bit(shape):
    vectors = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    if vectors.size:
        vectors[0, :3] = [0.0, 1e-45, -3.4e38]
    pieces = list(array_pieces(vectors, lambda _, row: row, before=b'{"v":', after=b"}"))
    assert len(pieces) == max(1, -(-shape[0] // max(1, PIECE_ELEMENTS // shape[1])))
    read = np.array(json.loads(b"".join(pieces))["v"], np.float32).reshape(shape)
    assert read.tobytes() == vectors.tobytes()
    for row in vectors:
        assert base64.b64decode(json.loads(dumps(base64_text(row)))) == row.astype("<f4").tobytes()


def test_requests_to_the_encoder_hold_every_row_once_within_their_budget():
    lengths = [*np.random.default_rng(3).integers(1, 3000, 500).tolist(), 9000, 1]
    requests = split_by_tokens(lengths, 64)
    assert sorted(np.concatenate(requests).tolist()) == list(range(len(lengths)))
    for rows in requests:
        longest = max(lengths[row] for row in rows)
        assert len(rows) == 1 or len(rows) * longest <= MAX_REQUEST_TOKENS
        assert len(rows) <= 64


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_texts": 0},
        {"max_body_bytes": True},
        {"timeout_s": 0},
        {"drain_delay_s": -1},
        {"aliases": {"": "m"}},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(InvalidInput):
        GatewaySettings(**wrong)
    assert "secret" not in repr(GatewaySettings(keys="a secret"))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_that_is_nested_too_deep_is_the_callers_error(opening):
    closing = b"]" if opening == b"[" else b"}"
    deep = opening * 100_000 + b"1" + closing * 100_000

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(GatewaySettings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            body = b'{"input": "a text", "options": {"a": ' + deep + b"}}"
            return await client.post("/api/embed", content=body)

    answer = asyncio.run(ask())
    assert (answer.status_code, "nested too deep" in answer.json()["error"]) == (400, True)
