"""The chart over a matrix of values, held against Kubernetes' schemas and a policy."""

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from docker.chart_objects import CHART, VALUES, documents_of, only, only_pod
from lasttoken_export.catalogue import entry, load_catalogue

SNAPSHOTS = Path(__file__).parent / "snapshots"
KUBERNETES = ("1.28", "1.31", "1.34", "1.37")
OTHERS = {"keda.sh", "monitoring.coreos.com", "gateway.networking.k8s.io"}
"""Groups of custom resources, which are not among Kubernetes' own schemas."""


def pods(documents):
    return [d["spec"]["template"]["spec"] for d in documents if d["kind"] in ("Deployment", "Job")]


def containers(documents):
    for pod in pods(documents):
        yield from pod.get("initContainers") or []
        yield from pod["containers"]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: values.stem)
def test_helm_lints_it(helm, values):
    done = subprocess.run(
        [helm, "lint", "--strict", CHART, "--values", values], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_every_object(rendered, version):
    checked = 0
    for documents in rendered.values():
        for document in documents:
            if document["apiVersion"].partition("/")[0] in OTHERS:
                continue
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked > 40


@pytest.mark.parametrize("name", [values.stem for values in VALUES])
def test_the_rendered_chart_is_the_reviewed_one(rendered, name, pytestconfig):
    """`pytest tests/docker --update-snapshots` writes them anew: look at the difference."""
    text = yaml.safe_dump_all(rendered[name], sort_keys=True)
    path = SNAPSHOTS / f"{name}.yaml"
    if pytestconfig.getoption("--update-snapshots"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


# --- policy --------------------------------------------------------------------------------------


def test_nothing_is_root_or_privileged(rendered):
    for documents in rendered.values():
        for pod in pods(documents):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] == 1000
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False
            assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        for container in containers(documents):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["privileged"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_everything_is_limited(rendered):
    for documents in rendered.values():
        for container in containers(documents):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys()
        for pod in pods(documents):
            for volume in pod["volumes"]:
                assert "hostPath" not in volume
                if "emptyDir" in volume:
                    assert volume["emptyDir"]["sizeLimit"]


def test_no_secret_is_on_a_command_line_or_spelt_out(rendered):
    for documents in rendered.values():
        assert not [d for d in documents if d["kind"] == "Secret"]
        for container in containers(documents):
            for variable in container.get("env") or []:
                words = ("HF_TOKEN", "SECRET_ACCESS", "API_KEYS")
                if any(word in variable["name"] for word in words):
                    assert "valueFrom" in variable


# --- behaviour -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("gpu-pvc", "nvidia.com/gpu"),
        ("mig-oci", "nvidia.com/mig-3g.40gb"),
        ("shared-s3", "nvidia.com/gpu.shared"),
        ("cpu", None),
    ],
)
def test_the_gpu_is_asked_for_as_the_cluster_offers_it(rendered, name, resource):
    deployment = only(rendered[name], "Deployment", "-server")
    limits = deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = {key: value for key, value in limits.items() if key.startswith("nvidia.com/")}
    assert gpus == ({resource: 1} if resource else {})


def test_the_startup_probe_leaves_time_for_14_gb_and_liveness_embeds(rendered):
    pod = only(rendered["gpu-pvc"], "Deployment", "-server")["spec"]["template"]["spec"]
    [triton] = pod["containers"]
    startup, liveness = triton["startupProbe"], triton["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    assert liveness["exec"]["command"][1].endswith("probe.py")
    assert float(liveness["exec"]["command"][-1]) < liveness["timeoutSeconds"]
    stop = int(triton["lifecycle"]["preStop"]["exec"]["command"][1])
    [drain] = [int(e["value"]) for e in triton["env"] if e["name"] == "EXIT_TIMEOUT_S"]
    assert pod["terminationGracePeriodSeconds"] > stop + drain


def test_models_are_verified_before_triton_starts(rendered):
    for name, documents in rendered.items():
        pod = only(documents, "Deployment", "-server")["spec"]["template"]["spec"]
        last = pod["initContainers"][-1]
        assert last["name"] == "verify-models", name
        assert last["command"][1].endswith("check_repository.py")
        mounts = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]
        assert [m["readOnly"] for m in mounts] == [True]
        folder = next(e for e in pod["containers"][0]["env"] if e["name"] == "MODEL_REPOSITORY")
        assert last["command"][2] == folder["value"]


def test_the_job_writes_where_the_server_waits(rendered):
    documents = rendered["exporter"]
    job = only(documents, "Job")
    [export] = job["spec"]["template"]["spec"]["containers"]
    key = export["command"][2]
    pod = only(documents, "Deployment", "-server")["spec"]["template"]["spec"]
    waiting = pod["initContainers"][0]
    assert waiting["command"][-1] == f"/models/{key}/repository"
    claim = only(documents, "PersistentVolumeClaim")["metadata"]["name"]
    for spec in (pod, job["spec"]["template"]["spec"]):
        [volume] = [v for v in spec["volumes"] if v["name"] == "models"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim
    assert job["spec"]["parallelism"] == 1
    node = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    assert job["spec"]["template"]["spec"]["nodeSelector"] == pod["nodeSelector"] == node
    assert export["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_another_gpu_or_version_is_another_plan(render):
    def names(*changes):
        done = render(*changes, values=CHART / "ci" / "exporter.yaml")
        job = only([d for d in yaml.safe_load_all(done.stdout) if d], "Job")
        command = job["spec"]["template"]["spec"]["containers"][0]["command"]
        return job["metadata"]["name"], command[2]

    same = names()
    assert names() == same
    for change in (
        "repository.exporter.gpuType=H200",
        "repository.exporter.image.tag=9.9",
        "repository.exporter.precision=fp16",
    ):
        other = names("--set", change)
        assert other[0] != same[0]
        assert other[1] != same[1]


def test_autoscaling_owns_the_replicas_and_looks_at_the_encoders_queue(rendered):
    for name, kind in (("shared-s3", "ScaledObject"), ("mig-oci", "HorizontalPodAutoscaler")):
        assert "replicas" not in only(rendered[name], "Deployment", "-server")["spec"]
        assert "lasttoken_encoder_queue_tokens" in json.dumps(only(rendered[name], kind))
    assert only(rendered["cpu"], "Deployment", "-server")["spec"]["replicas"] == 2


def test_the_gateway_reaches_every_server_by_the_headless_service(rendered):
    documents = rendered["gpu-pvc"]
    service = only(documents, "Service", "-grpc")
    assert service["spec"]["clusterIP"] == "None"
    gateway = only(documents, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"][0]
    [url] = [e["value"] for e in gateway["env"] if e["name"] == "LASTTOKEN_GATEWAY_URL"]
    assert url == f"dns:///{service['metadata']['name']}.ns.svc:8001"


def test_only_the_gateway_and_who_is_named_may_call_triton(rendered):
    policy = only(rendered["mig-oci"], "NetworkPolicy", "-server")["spec"]
    [grpc] = [rule for rule in policy["ingress"] if rule["ports"] == [{"port": "grpc"}]]
    assert {"podSelector": {"matchLabels": {"app": "search"}}} in grpc["from"]
    assert policy["egress"] == []
    assert not [rule for rule in policy["ingress"] if {"port": "http"} in rule["ports"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["server.gpu.kind=quantum"], "/server/gpu/kind"),
        (["serverr.image.tag=1"], "serverr"),
        (["server.gpu.count=2"], "/server/gpu/count"),
        (["server.image.digest=sha256:12"], "/server/image/digest"),
        (["repository.pvc.claimName="], "repository.pvc.claimName is needed"),
        (["gateway.apiKeysSecret="], "gateway.allowAnonymous=true"),
        (["server.gpu.kind=mig"], "server.gpu.migProfile is needed"),
        (["gateway.ingress.enabled=true"], "gateway.ingress.host is needed"),
        (["repository.kind=s3"], "repository.s3.uri is needed"),
        (["repository.s3.endpoint=minio:9000"], "/repository/s3/endpoint"),
        (["server.tlsSecret=x"], "gateway.upstreamTls.clientSecret names the Secret"),
        (["gateway.upstreamTls.clientSecret=x"], "set server.tlsSecret"),
    ],
)
def test_values_that_cannot_work_are_refused_with_what_to_do(render, changes, said):
    sets = [word for change in changes for word in ("--set", change)]
    done = render(*sets, values=CHART / "ci" / "gpu-pvc.yaml")
    assert done.returncode != 0
    assert said in done.stderr


def test_every_value_is_in_the_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def check(value, part, path):
        if isinstance(value, dict) and "properties" in part:
            assert value.keys() <= part["properties"].keys(), path
            for name, inner in value.items():
                check(inner, part["properties"][name], f"{path}.{name}")

    check(values, schema, "values")


@pytest.fixture(scope="session")
def notes(helm):
    """What `helm install` says with these settings."""

    def say(*arguments, values="gpu-pvc"):
        command = [helm, "install", "r", CHART, "--dry-run=client", "--namespace", "ns"]
        file = CHART / "ci" / f"{values}.yaml"
        done = subprocess.run(
            [*command, "--values", file, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rpartition("NOTES:")[2]

    return say


def test_the_notes_print_commands_for_these_values(notes):
    said = notes()
    assert "service/r-lasttoken-gateway 8080:80" in said
    assert "Authorization: Bearer $KEY" in said
    assert "tls=Tls" not in said
    said = notes(values="shared-s3")
    assert "service/r-lasttoken-gateway 8080:443" in said
    assert "certificate_chain=" in said
    assert "r-lasttoken-grpc.ns.svc" in said


@pytest.mark.parametrize("name", sorted(load_catalogue()))
def test_the_notes_say_what_a_licence_forbids(notes, name):
    model = entry(name)
    said = notes("--set", f"model={model.triton_name}")
    assert ("CC-BY-NC-4.0" in said) == (model.licence.id == "cc-by-nc-4.0")


@pytest.mark.parametrize("part", ["server", "gateway"])
def test_further_volumes_are_mounted(render, part):
    volume = '[{"name": "more", "configMap": {"name": "x"}}]'
    mount = '[{"name": "more", "mountPath": "/more", "readOnly": true}]'
    sets = ("--set-json", f"{part}.extraVolumes={volume}")
    sets += ("--set-json", f"{part}.extraVolumeMounts={mount}")
    done = render(*sets, values=CHART / "ci" / "gpu-pvc.yaml")
    documents = documents_of(done)
    pod = only_pod(documents, f"-{part}")
    assert json.loads(volume)[0] in pod["volumes"]
    assert json.loads(mount)[0] in pod["containers"][0]["volumeMounts"]


def test_the_kserve_manifest_keeps_the_policy():
    service = yaml.safe_load((CHART.parents[1] / "kserve" / "inferenceservice.yaml").read_text())
    predictor = service["spec"]["predictor"]
    [container] = predictor["containers"]
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    pod = {k: v for k, v in predictor.items() if k != "automountServiceAccountToken"}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod},
        "1.34", strict=True,
    )  # fmt: skip


def test_traces_go_to_the_collector_that_is_named(render, rendered):
    endpoint = "http://collector.observability:4318"
    done = render("--set", f"tracing.endpoint={endpoint}", values=CHART / "ci" / "gpu-pvc.yaml")
    assert done.returncode == 0, done.stderr
    documents = [d for d in yaml.safe_load_all(done.stdout) if d]
    told = {
        variable["name"]: variable.get("value")
        for container in containers(documents)
        for variable in container.get("env") or []
    }
    assert told["OTLP_ENDPOINT"] == told["LASTTOKEN_GATEWAY_OTLP_ENDPOINT"] == endpoint
    assert told["TRACE_RATE"] == "1000"
    for ending in ("-server", "-gateway"):
        opened = only(documents, "NetworkPolicy", ending)["spec"]["egress"]
        assert {"ports": [{"port": 4318}]} in opened
        closed = only(rendered["gpu-pvc"], "NetworkPolicy", ending)["spec"]["egress"]
        assert {"ports": [{"port": 4318}]} not in closed
