"""docs/security.md names tests that exist, and the defaults that no other test covers hold."""

import argparse
import ast
import inspect
import re
from pathlib import Path

import pytest

from lasttoken.commands.gateway import GATEWAY
from lasttoken.commands.serve import SERVE
from lasttoken.gateway.serve import ListenSettings
from lasttoken.local import LocalTriton
from lasttoken.local.program import ServerProgram

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()


def test_every_test_that_the_page_names_exists():
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))
    assert len(named) > 25
    for file, test in sorted(named):
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{file} has no {test}"


def arguments_of(command):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser


def test_everything_binds_to_loopback_unless_told(monkeypatch):
    monkeypatch.delenv("LASTTOKEN_GATEWAY_HOST", raising=False)
    assert arguments_of(SERVE).parse_args(["repository"]).host == "127.0.0.1"
    assert arguments_of(GATEWAY).parse_args([]).host == "127.0.0.1"
    assert ListenSettings().host == "127.0.0.1"
    assert inspect.signature(LocalTriton).parameters["host"].default == "127.0.0.1"
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    published = re.findall(r'"([^"]+)"', " ".join(re.findall(r"ports: \[(.*)\]", compose)))
    assert len(published) > 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def started_with(tmp_path, **options):
    """The arguments of a server that would be started."""
    server = LocalTriton(tmp_path, **options)
    server._ports = server._choose_ports()
    program = ServerProgram(path="tritonserver", arguments=(), environment={}, library_path="")
    return server._arguments(program)


def test_the_local_server_is_started_closed(tmp_path):
    arguments = started_with(tmp_path)
    for fixed in ("--model-control-mode=none", "--allow-sagemaker=false",
                  "--allow-vertex-ai=false", "--grpc-address=127.0.0.1",
                  "--http-address=127.0.0.1", "--metrics-address=127.0.0.1"):  # fmt: skip
        assert fixed in arguments
    closed = [a for a in arguments if "restricted" in a]
    assert len(closed) == 2
    for argument in closed:
        assert re.fullmatch(r"--[a-z-]+=shared-memory,trace,logging:nobody=[0-9a-f]{32}", argument)
    assert closed != [a for a in started_with(tmp_path) if "restricted" in a]  # another secret
    opened = started_with(tmp_path, closed_apis=())
    assert not [a for a in opened if "restricted" in a]


SOURCES = ("client/src", "export/src", "model_repository")
OWN_PICKLES = ("client/src/lasttoken/corpus/ray_runner.py",)


def test_nothing_unpickles_evaluates_or_runs_a_models_code():
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            name = str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    modules = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                    foreign = {"pickle", "dill", "joblib", "cloudpickle", "marshal"} & modules
                    assert not foreign or name in OWN_PICKLES, name
                if isinstance(node, ast.Call):
                    check_call(name, node)


def check_call(name, node):
    called = ast.unparse(node.func)
    assert called not in ("eval", "exec", "os.system", "torch.load"), name
    for keyword in node.keywords:
        if keyword.arg in ("trust_remote_code", "allow_pickle", "shell"):
            assert ast.unparse(keyword.value) == "False", f"{name}: {keyword.arg}"
    if called.endswith("from_pretrained"):
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert given.get("use_safetensors") == "True", name
        assert given.get("trust_remote_code") == "False", name


@pytest.mark.parametrize("command", [SERVE, GATEWAY], ids=["serve", "gateway"])
def test_no_command_takes_a_secret_as_an_argument(command):
    for action in arguments_of(command)._actions:
        for option in action.option_strings:
            words = set(option.strip("-").split("-"))
            assert not words & {"token", "password", "secret", "keys"}, option
            if "key" in words:
                assert action.type is Path, option  # a file
