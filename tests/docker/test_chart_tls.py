"""TLS of the chart: who trusts whom by which Secret, and who is told to speak it."""

import argparse
import os
import re
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import trustme

from docker.chart_objects import CHART, documents_of, only, only_pod
from gateway.gateway_process import GatewayProcess
from lasttoken.commands.gateway import GATEWAY
from server.tls_triton import tls_triton
from server.toy_repository import write_toy_repository


def gateway_variables():
    """Environment variables that the gateway reads."""
    parser = argparse.ArgumentParser()
    GATEWAY.add_arguments(parser)
    return set(re.findall(r"LASTTOKEN_GATEWAY_\w+", parser.format_help()))


def secret_files(pod):
    """Secret and key behind each file that the only container of a pod finds, by its path."""
    volumes = {v["name"]: v["secret"] for v in pod["volumes"] if "secret" in v}
    return {
        f"{mount['mountPath']}/{item['path']}": (volumes[mount["name"]]["secretName"], item["key"])
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] in volumes
        for item in volumes[mount["name"]].get("items", [])
    }


def test_every_setting_of_the_gateway_is_one_that_it_reads(rendered):
    for name, documents in rendered.items():
        if name != "mig-oci":
            [container] = only_pod(documents, "-gateway")["containers"]
            names = {e["name"] for e in container["env"]}
            assert names <= gateway_variables(), name


def test_a_gateway_to_a_server_with_tls_trusts_it_and_has_a_certificate(rendered):
    pod = only_pod(rendered["shared-s3"], "-gateway")
    told = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
    found = secret_files(pod)
    prefix = "LASTTOKEN_GATEWAY_UPSTREAM_TLS_"
    assert found[told[f"{prefix}CA"]] == ("server-tls", "ca.crt")
    assert found[told[f"{prefix}CERT"]] == ("gateway-client-tls", "tls.crt")
    assert found[told[f"{prefix}KEY"]] == ("gateway-client-tls", "tls.key")
    assert ("server-tls", "tls.key") not in found.values()
    server = only_pod(rendered["shared-s3"], "-server")
    assert ("server-tls", "ca.crt") in secret_files(server).values()
    without = only_pod(rendered["gpu-pvc"], "-gateway")["containers"][0]["env"]
    assert not [e for e in without if "TLS" in e["name"]]


def test_a_server_that_asks_for_no_certificates_does_not_see_an_authority(render):
    change = "server.tlsSecret=server-tls,server.tlsVerifyClients=false"
    more = "gateway.upstreamTls.caSecret=authority"
    done = render("--set", change, "--set", more, values=CHART / "ci" / "gpu-pvc.yaml")
    documents = documents_of(done)
    keys = set(secret_files(only_pod(documents, "-server")).values())
    assert keys == {("server-tls", "tls.crt"), ("server-tls", "tls.key")}
    pod = only_pod(documents, "-gateway")
    assert set(secret_files(pod).values()) == {("authority", "ca.crt")}
    assert "UPSTREAM_TLS_CERT" not in done.stdout


def test_values_of_an_older_chart_still_ask_clients_for_certificates(render):
    """`helm upgrade --reuse-values` has none of the new values' defaults."""
    lost = (
        "server.tlsVerifyClients=null,server.extraVolumes=null,gateway.upstreamTls=null,"
        "gateway.extraVolumes=null,networkPolicy.httpFrom=null,"
        "monitoring.podMonitor.gatewayTlsConfig=null"
    )
    assert render("--set", lost, values=CHART / "ci" / "gpu-pvc.yaml").returncode == 0
    sets = ("--set", lost, "--set", "server.tlsSecret=x,gateway.enabled=false")
    done = render(*sets, values=CHART / "ci" / "gpu-pvc.yaml")
    documents = documents_of(done)
    assert ("x", "ca.crt") in secret_files(only_pod(documents, "-server")).values()


def test_a_gateway_with_tls_is_scraped_and_reached_over_tls(render, rendered):
    def gateway_endpoint(documents):
        endpoints = only(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]
        assert [e["port"] for e in endpoints] == ["metrics", "http"]
        assert "scheme" not in endpoints[0]  # Triton's metrics have no TLS
        return endpoints[1]

    documents = rendered["shared-s3"]
    endpoint = gateway_endpoint(documents)
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"insecureSkipVerify": True})
    assert only(documents, "Service", "-gateway")["spec"]["ports"][0]["appProtocol"] == "https"
    protocol = "nginx.ingress.kubernetes.io/backend-protocol"
    assert only(documents, "Ingress")["metadata"]["annotations"] == {protocol: "HTTPS"}

    def changed(*changes):
        sets = [word for change in changes for word in ("--set", change)]
        done = render(*sets, values=CHART / "ci" / "shared-s3.yaml")
        return documents_of(done)

    plain = changed("gateway.tlsSecret=")
    assert "scheme" not in gateway_endpoint(plain)
    assert "annotations" not in only(plain, "Ingress")["metadata"]
    assert (
        "annotations"
        not in only(changed("gateway.ingress.className=traefik"), "Ingress")["metadata"]
    )
    given = r"gateway.ingress.annotations.nginx\.ingress\.kubernetes\.io/backend-protocol=GRPCS"
    assert only(changed(given), "Ingress")["metadata"]["annotations"] == {protocol: "GRPCS"}
    checked = changed("monitoring.podMonitor.gatewayTlsConfig.serverName=embed.example.org")
    assert gateway_endpoint(checked)["tlsConfig"] == {"serverName": "embed.example.org"}


# --- for real ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """Files of the Secrets of ci/shared-s3.yaml, by Secret and key."""
    authority = trustme.CA()
    folder = tmp_path_factory.mktemp("secrets")
    files = {}
    for secret, names in (
        ("server-tls", ("localhost", "127.0.0.1")),
        ("gateway-client-tls", ("gateway.ns.svc",)),
        ("gateway-tls", ("localhost",)),
    ):
        issued = authority.issue_cert(*names)
        for key, pem in (
            ("tls.crt", issued.cert_chain_pems[0]),
            ("tls.key", issued.private_key_pem),
            ("ca.crt", authority.cert_pem),
        ):
            files[secret, key] = folder / secret / key
            files[secret, key].parent.mkdir(exist_ok=True)
            pem.write_to_path(files[secret, key])
    return files


@pytest.fixture(scope="module")
def asking_triton(rendered, secrets, tmp_path_factory, cache_folder):
    """A Triton with the TLS of the chart's server, as serve.sh makes it of its mounted Secret."""
    folder = tmp_path_factory.mktemp("mounted")
    for path, source in secret_files(only_pod(rendered["shared-s3"], "-server")).items():
        assert path.startswith("/etc/lasttoken/tls/")
        (folder / Path(path).name).write_bytes(secrets[source].read_bytes())
    program = folder / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "DRY_RUN": "1",
        "TLS_FOLDER": str(folder), "MODEL_REPOSITORY": str(folder),
    }  # fmt: skip
    command = [CHART.parents[1] / "scripts" / "serve.sh"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    arguments = re.findall(r"^--grpc-(?:use-ssl|server|root)\S*$", shown.stdout, re.MULTILINE)
    assert len(arguments) == 5
    repository = write_toy_repository(folder / "repository")
    log = folder / "log"
    with tls_triton(repository, log, cache_folder=cache_folder, tls_arguments=arguments) as port:
        yield f"127.0.0.1:{port}"


@pytest.mark.server
def test_the_gateway_of_the_chart_is_ready_in_front_of_the_server_of_the_chart(
    rendered, secrets, asking_triton, tmp_path
):
    pod = only_pod(rendered["shared-s3"], "-gateway")
    files = secret_files(pod) | {
        f"/etc/lasttoken/tls/{key}": ("gateway-tls", key) for key in ("tls.crt", "tls.key")
    }
    environment = {
        told["name"]: str(secrets[files[told["value"]]])
        for told in pod["containers"][0]["env"]
        if "_TLS_" in told["name"]
    }
    assert len(environment) == 5
    trusted = ssl.create_default_context(cafile=str(secrets["gateway-tls", "ca.crt"]))
    trusted.check_hostname = False
    for left_out, status in (("", 200), ("UPSTREAM_TLS", 503)):
        told = {n: v for n, v in environment.items() if not left_out or left_out not in n}
        log = tmp_path / f"log{status}"
        with GatewayProcess(asking_triton, log, "--timeout", "5", env=told) as gateway:
            ready = httpx.get(f"{gateway.url}/ready", verify=trusted, timeout=60)
            assert ready.status_code == status, ready.text
