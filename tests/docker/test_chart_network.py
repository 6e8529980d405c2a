"""Network policies of the chart: who reaches what is opened by a value."""

import json

import pytest

from docker.chart_objects import CHART, documents_of, only


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("", 443),
        ("https://s3.example", 443),
        ("https://s3.example/", 443),
        ("http://minio.storage", 80),
        ("http://minio.storage:9000", 9000),
        ("https://minio.storage:9443/path", 9443),
        ("http://[fd00::1]:9000", 9000),
        ("https://[fd00::1]", 443),
    ],
)
def test_the_port_of_the_store_is_open(render, endpoint, port):
    change = f"repository.s3.endpoint={endpoint}"
    done = render("--set-string", change, values=CHART / "ci" / "shared-s3.yaml")
    documents = documents_of(done)
    egress = only(documents, "NetworkPolicy", "-server")["spec"]["egress"]
    assert [rule["ports"] for rule in egress[1:]] == [[{"port": port}]]


def test_who_is_named_may_call_triton_over_http(render):
    allowed = '[{"podSelector": {"matchLabels": {"app": "search"}}}]'
    change = f"networkPolicy.httpFrom={allowed}"
    done = render("--set-json", change, values=CHART / "ci" / "gpu-pvc.yaml")
    documents = documents_of(done)
    ingress = only(documents, "NetworkPolicy", "-server")["spec"]["ingress"]
    [http] = [rule for rule in ingress if rule["ports"] == [{"port": "http"}]]
    assert http["from"] == json.loads(allowed)
    [port] = only(documents, "Service", "-http")["spec"]["ports"]
    assert port["targetPort"] == "http"
