"""The examples of docs/grpc.md against a real Triton."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from lasttoken.local import LocalTriton
from server.toy_repository import MODEL, toy_vector, toy_vectors, write_toy_repository

EXAMPLES = Path(__file__).parents[2] / "client" / "examples"
DOCS = Path(__file__).parents[2] / "docs" / "grpc.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory, cache_folder) -> Iterator[LocalTriton]:
    repository = write_toy_repository(tmp_path_factory.mktemp("toy") / "repository")
    with LocalTriton(repository, cache_folder=cache_folder) as running:
        yield running


@pytest.fixture(scope="module")
def node_example(tmp_path_factory) -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed here")
    folder = tmp_path_factory.mktemp("examples")
    shutil.copyfile(EXAMPLES / "kserve_v2.proto", folder / "kserve_v2.proto")
    shutil.copytree(
        EXAMPLES / "node", folder / "node", ignore=shutil.ignore_patterns("node_modules")
    )
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"],
        cwd=folder / "node",
        check=True,
        timeout=200,
        capture_output=True,
    )
    return folder / "node" / "embed.mjs"


def test_the_proto_has_the_protocols_field_numbers():
    """Every field of ours is one of Triton's, under the same number."""
    text = re.sub(r"//.*", "", (EXAMPLES / "kserve_v2.proto").read_text())
    descriptors = {d.full_name: d for d in service_pb2.DESCRIPTOR.message_types_by_name.values()}
    for outer in list(descriptors.values()):
        descriptors |= {nested.full_name: nested for nested in outer.nested_types}
    scope, seen = [], 0
    for line in text.splitlines():
        if opened := re.match(r"\s*(?:message|oneof|service) (\w+) \{", line):
            scope.append(opened[1])
            if line.rstrip().endswith("}"):
                scope.pop()
        elif line.strip() == "}":
            scope.pop()
        elif field := re.match(r"\s*(?:repeated )?[\w<>, ]+ (\w+) = (\d+);", line):
            names = [name for name in scope if name != "parameter_choice"]
            ours = descriptors["inference." + ".".join(names)]
            assert ours.fields_by_name[field[1]].number == int(field[2]), (names, field[1])
            seen += 1
    assert seen >= 25


@pytest.mark.server
def test_node_with_stubs_of_its_own(server, node_example):
    texts = ["a text", "漢字 \U0001f600", "x" * 5000]
    command = ["node", str(node_example), server.grpc_url]
    done = subprocess.run(
        [*command, MODEL, *texts], capture_output=True, text=True, check=True, timeout=60
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["token_count"] for row in rows] == [6, 11, 4096]
    assert [row["truncated"] for row in rows] == [False, False, True]
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    assert np.array_equal(vectors, toy_vectors(texts))
    failed = subprocess.run(
        [*command, MODEL, "BAD INPUT"], capture_output=True, text=True, timeout=60, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("INVALID_ARGUMENT: ")


@pytest.mark.server
def test_the_curl_command_of_the_page(server):
    (command,) = re.findall(r"```sh\n(curl .*?)```", DOCS.read_text(), flags=re.S)
    command = command.replace("127.0.0.1:8000", str(server.http_url))
    command = command.replace("smollm2_135m", MODEL)
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    outputs = {output["name"]: output for output in json.loads(done.stdout)["outputs"]}
    vector = np.array(outputs["EMBEDDING"]["data"], np.float32)
    assert np.allclose(vector, toy_vector("a text"), atol=1e-7)
    assert outputs["TOKEN_COUNT"]["data"] == [6]
