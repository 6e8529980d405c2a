"""The chart's files, and how the tests find an object among those that it makes."""

from pathlib import Path

import yaml

CHART = Path(__file__).parents[2] / "docker" / "helm" / "lasttoken"
VALUES = sorted((CHART / "ci").glob("*.yaml"))


def documents_of(done):
    """Objects of a finished `helm template`, which must have gone well."""
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def only(documents, kind, ending=""):
    """The one object of a kind whose name ends so."""
    [found] = [d for d in documents if d["kind"] == kind and d["metadata"]["name"].endswith(ending)]
    return found


def only_pod(documents, ending):
    """The pod of the one Deployment whose name ends so."""
    return only(documents, "Deployment", ending)["spec"]["template"]["spec"]
