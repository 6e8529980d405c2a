"""Each package declares what it imports: the test environment holds more than a user's."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
import tomllib

BROUGHT_ALONG = {"grpcio": "tritonclient", "protobuf": "tritonclient"}
"""By the extra `grpc` of tritonclient, whose interface is made of them."""
ONLY_IN_PEERS = {
    "flash-attn", "llama-cpp", "modelopt", "openvino", "optimum", "sentence-transformers",
    "torch", "transformers",
}  # fmt: skip
"""In processes of their own, in environments of their own; the GPU suite takes the machine's."""
FOR_THE_TYPE_CHECKER = {"typing_extensions"}
GIVEN_BY_TRITON = {"triton_python_backend_utils"}
"""To the Python models that it runs."""
OF_EXTRAS = {"adapters", "corpus", "gateway"}
"""Folders that are imported only where their extra is installed."""


def normalise(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def waits(block):
    """Whether what a block imports is not imported with its module."""
    if isinstance(block, ast.If):
        return isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
    return isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef)


def names_of(requirements):
    return {normalise(re.split(r"[^\w.-]", r, maxsplit=1)[0]) for r in requirements}


@pytest.mark.parametrize("package", ["client", "export", "perf"])
def test_every_import_is_a_declared_dependency(package, pytestconfig):
    folder = pytestconfig.rootpath / package
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    declared = names_of(project["dependencies"])
    extras = project.get("optional-dependencies", {}).values()
    optional = {name for extra in extras for name in names_of(extra)}
    distributions = packages_distributions()
    undeclared = set()
    imported = set()
    for path in (folder / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        lazy = {id(node) for block in ast.walk(tree) if waits(block) for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top in FOR_THE_TYPE_CHECKER | GIVEN_BY_TRITON:
                    continue
                found = {normalise(d) for d in distributions.get(top, [top])}
                found = {BROUGHT_ALONG.get(d, d) for d in found}
                if name.startswith("google.protobuf"):
                    found = {"tritonclient"}
                imported |= found
                allowed = declared | {normalise(project["name"])}
                if id(node) in lazy or OF_EXTRAS & set(path.parts):
                    allowed |= optional
                if path.name == "export_script.py":  # runs in the environment of optimum
                    allowed |= {*ONLY_IN_PEERS, "optimum"}
                if {"peers", "gpu_suite"} & set(path.parts):
                    allowed |= ONLY_IN_PEERS
                if package == "client" and path.name in ("demo.py", "catalogue_listing.py"):
                    allowed |= {"lasttoken-export"}  # optional there, with an error that says so
                if not found & allowed:
                    undeclared.add((path.name, name))
    assert undeclared == set()
    assert "numpy" in imported


def test_the_client_needs_tritonclient_and_numpy_only(pytestconfig):
    project = tomllib.loads((pytestconfig.rootpath / "client/pyproject.toml").read_text())
    names = {re.split(r"[^\w-]", d, maxsplit=1)[0] for d in project["project"]["dependencies"]}
    assert names == {"tritonclient", "numpy"}
