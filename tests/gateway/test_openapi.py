"""The OpenAPI document is true: right and wrong requests are made of it and sent to the gateway."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

pytestmark = pytest.mark.server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


OPERATIONS = ("POST /v1/embeddings", "POST /embed", "POST /api/embed", "POST /api/embeddings",
              "POST /v2/embed", "GET /v1/models", "GET /v1/models/{model}",
              "GET /info")  # fmt: skip


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_the_gateway_does_what_its_document_says(small_gateway, label, mode):
    schema = schemathesis.openapi.from_url(f"{small_gateway.url}/openapi.json")
    method, path = label.split()
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and method == "GET":
        pytest.skip("nothing of it can be wrong")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=12,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        body = case.body
        if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"]:
            body["model"] = "short"  # else all of them would be about a model that is not there
        case.call_and_validate(checks=CHECKS, timeout=30)

    check()


def test_every_route_is_in_the_document(small_http):
    paths = small_http.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/embeddings", "/v1/models", "/v1/models/{model}", "/embed", "/info", "/api/embed",
        "/api/embeddings", "/v2/embed", "/health", "/ready",
    }  # fmt: skip
    for path, methods in paths.items():
        for method, described in methods.items():
            answer = small_http.request(method.upper(), path, content=b"{")
            assert str(answer.status_code) in described["responses"], path
