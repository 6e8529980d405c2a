"""Options of the chart's tests, and the chart as Helm renders it."""

import subprocess

import pytest

from docker.chart_objects import CHART, VALUES, documents_of
from docker.helm_program import default_cache, helm_program


def pytest_addoption(parser):
    parser.addoption("--update-snapshots", action="store_true", help="write the chart's snapshots")
    parser.addoption(
        "--whole-chart-matrix",
        action="store_true",
        help="render 300 combinations",
    )


@pytest.fixture(scope="session")
def helm():
    return helm_program(default_cache())


@pytest.fixture(scope="session")
def render(helm):
    def template(*arguments, values=None):
        files = ["--values", values] if values else []
        command = [helm, "template", "r", CHART, "--namespace", "ns", *files, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return template


@pytest.fixture(scope="session")
def rendered(render):
    """Documents of each file of values."""
    documents = {}
    for values in VALUES:
        documents[values.stem] = documents_of(render(values=values))
    return documents
