"""The gateway's own series: which are there before anything has happened."""

from __future__ import annotations

import re

import pytest

from lasttoken.gateway import GatewaySettings
from lasttoken.gateway.dialects import DIALECTS
from lasttoken.gateway.gateway_metrics import GatewayMetrics
from lasttoken.gateway.gateway_state import Gateway
from lasttoken.gateway.refusals import KIND_OF_ERROR, refusal_of

ALICE, BOB = "a" * 20, "b" * 20


@pytest.fixture
def started():
    """What a gateway shows to whoever scrapes it first: values by series."""
    keys = f"alice {ALICE} requests=5 tokens=9; bob {BOB}"
    return series_of(Gateway(GatewaySettings(keys=keys)).metrics)


def series_of(metrics: GatewayMetrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {series: float(value) for series, _, value in pairs}


def test_what_can_be_counted_is_there_at_nought(started):
    """A series that begins at 1 is no increase to Prometheus, so no alert would see the first."""
    for outcome in ("ok", "failed"):
        assert started[f'lasttoken_gateway_key_reloads_total{{outcome="{outcome}"}}'] == 0
    for dialect in DIALECTS:
        for status in (200, 500, 502, 503, 504):
            labels = f'{{route="{dialect.path}",status="{status}"}}'
            assert started[f"lasttoken_gateway_requests_total{labels}"] == 0
        assert started[f'lasttoken_gateway_request_seconds_count{{route="{dialect.path}"}}'] == 0
    assert started["lasttoken_gateway_disconnects_total"] == 0


def test_each_error_of_the_server_behind_has_its_counter(started):
    counted = set(re.findall(r'upstream_errors_total\{error="(\w+)"\}', " ".join(started)))
    # The errors that the route counts, but for those of a server that a gateway does not start.
    assert counted == {
        kind.__name__
        for kind in KIND_OF_ERROR
        if not refusal_of(kind("x")).kind.blames_caller and refusal_of(kind("x")).kind.status != 500
    }
    assert {"ModelUnavailable", "ServerOverloaded", "DeadlineExceeded", "ServerError"} <= counted


def test_each_limit_of_a_key_has_its_counter(started):
    name = "lasttoken_gateway_rate_limited_total"
    assert {series for series in started if series.startswith(name)} == {
        f'{name}{{key="alice",limit="requests"}}',
        f'{name}{{key="alice",limit="tokens"}}',
    }
    assert started["lasttoken_gateway_keys"] == 2


def test_no_series_says_only_when_another_began(started):
    assert not [series for series in started if "_created" in series]
