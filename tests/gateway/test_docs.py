"""The examples of docs/openai.md, run as they stand against a gateway on another port."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.server

ADDRESS = "http://127.0.0.1:8080"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page(pytestconfig):
    return (pytestconfig.rootpath / "docs" / "openai.md").read_text()


def test_the_curl_examples(page, gateway):
    examples = blocks(page, "sh")
    assert len(examples) >= 2
    for example in examples:
        assert ADDRESS in example
        done = subprocess.run(
            ["sh", "-c", example.replace(ADDRESS, gateway.url)],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert json.loads(done.stdout)["data"][0]["embedding"]


def test_the_python_examples(page, gateway, capsys):
    examples = blocks(page, "python")
    assert len(examples) >= 6
    for example in examples:
        assert ADDRESS in example
        exec(example.replace(ADDRESS, gateway.url), {})  # noqa: S102 - our own page
        assert "576" in capsys.readouterr().out, example


def test_the_table_of_errors_is_complete(page):
    from lasttoken.gateway import refusals

    kinds = [value for value in vars(refusals).values() if isinstance(value, refusals.Kind)]
    for kind in kinds:
        [row] = [line for line in page.splitlines() if line.startswith(f"| {kind.status} |")]
        assert f"`{kind.code}`" in row


def test_every_option_is_in_the_help_and_the_key_example_is_valid(page):
    from lasttoken.gateway.keys import parse_keys

    [example] = blocks(page, "text")
    assert [key.name for key in parse_keys(example.splitlines(), source="")] == ["alice", "batch"]
    help_page = subprocess.run(
        [sys.executable, "-m", "lasttoken.cli", "gateway", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for option in re.findall(r"`(--[a-z-]+)", page):
        assert option in help_page
