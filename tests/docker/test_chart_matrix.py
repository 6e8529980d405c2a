"""The chart over combinations of its values; `make chart-matrix` takes ten times as many."""

import json
import subprocess
from collections import Counter

import kubernetes_validate
import pytest
import yaml

from docker import test_helm_chart as chart
from docker.chart_matrix import (
    DIMENSIONS,
    all_combinations,
    main_combinations,
    pairs_of,
    pairwise_combinations,
    values_of,
)
from docker.helm_program import default_cache, helm_program


@pytest.fixture(scope="module")
def combinations(pytestconfig):
    if pytestconfig.getoption("--whole-chart-matrix"):
        return list(main_combinations())
    return list(pairwise_combinations())


def test_each_two_choices_meet():
    chosen = list(pairwise_combinations())
    covered = set().union(*map(pairs_of, chosen))
    assert covered == set().union(*map(pairs_of, all_combinations()))
    assert len(chosen) < 60
    main = list(main_combinations())
    assert len({tuple(sorted(combination.items())) for combination in main}) == 4 * 5 * 5 * 3


def render(helm, combination, folder):
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values_of(combination)))
    command = [helm, "template", "r", chart.CHART, "--namespace", "ns", "--values", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{combination}: {done.stderr}"
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


@pytest.mark.timeout(3600)
def test_every_combination_is_valid_and_keeps_the_policy(combinations, tmp_path, capsys):
    helm = helm_program(default_cache())
    kinds, objects, validated, known = Counter(), 0, 0, set()
    for combination in combinations:
        documents = render(helm, combination, tmp_path)
        of_one = {str(combination): documents}
        chart.test_nothing_is_root_or_privileged(of_one)
        chart.test_everything_is_limited(of_one)
        chart.test_no_secret_is_on_a_command_line_or_spelt_out(of_one)
        present = Counter(document["kind"] for document in documents)
        check_presence(combination, present)
        kinds += present
        for document in documents:
            objects += 1
            if document["apiVersion"].partition("/")[0] in chart.OTHERS:
                continue
            text = yaml.safe_dump(document)
            if text in known:
                continue  # the very object of another combination
            known.add(text)
            for version in chart.KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
            validated += 1
    assert min(kinds.values()) >= 1
    assert validated > 40
    with capsys.disabled():
        print(
            f"\nchart matrix: {len(combinations)} combinations rendered, {objects} objects, "
            f"{validated} distinct ones validated against Kubernetes {', '.join(chart.KUBERNETES)}"
        )


def check_presence(combination, kinds):
    """What was chosen is there, and nothing that was not."""
    gateway = combination["gateway"] != "off"
    off = combination["limits"] == "off"
    expected = {
        "Deployment": 1 + gateway,
        "Job": combination["repository"].startswith("exporter"),
        "PersistentVolumeClaim": combination["repository"] == "exporter-claim",
        "Ingress": combination["gateway"] == "ingress",
        "HTTPRoute": combination["gateway"] == "route",
        "ScaledObject": combination["autoscaling"] == "keda",
        "HorizontalPodAutoscaler": combination["autoscaling"] == "hpa",
        "PodMonitor": combination["monitoring"] == "on",
        "PrometheusRule": combination["monitoring"] == "on",
        "PodDisruptionBudget": 0 if off else 1 + gateway,
        "ServiceAccount": not off,
        "Secret": 0,
    }
    assert {kind: kinds[kind] for kind in expected} == expected, combination


def test_the_dimensions_are_those_that_the_schema_offers():
    schema = json.loads((chart.CHART / "values.schema.json").read_text())["properties"]
    kinds = schema["server"]["properties"]["gpu"]["properties"]["kind"]["enum"]
    assert set(DIMENSIONS["gpu"]) == set(kinds)
    assert set(DIMENSIONS["autoscaling"]) == set(
        schema["autoscaling"]["properties"]["kind"]["enum"]
    )
    assert {name.removesuffix("-claim") for name in DIMENSIONS["repository"]} == set(
        schema["repository"]["properties"]["kind"]["enum"]
    )
