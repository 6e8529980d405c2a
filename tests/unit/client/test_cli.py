"""The command line against the fake server."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from lasttoken import EmbeddingClient, cli
from lasttoken.commands.models import parity
from unit.client.fake_triton import MODEL, refuse, vector_of, vectors_of


class Stdin(io.TextIOWrapper):
    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data))
        self.isatty = lambda: terminal  # type: ignore[method-assign]


@pytest.fixture
def run(fake, capsys, monkeypatch):
    def run_cli(*arguments: str, stdin: bytes | None = None):
        monkeypatch.setattr(sys, "stdin", Stdin(stdin or b"", terminal=stdin is None))
        try:
            code = cli.main([*arguments])
        except SystemExit as leave:
            code = leave.code
        out, err = capsys.readouterr()
        return code, out, err

    monkeypatch.setenv("LASTTOKEN_URL", fake.url)
    return run_cli


def test_embed_prints_numbers_that_read_back_exactly(run):
    code, out, err = run("embed", "one text", "another")
    assert (code, err) == (0, "")
    rows = np.array([line.split() for line in out.splitlines()], dtype=np.float32)
    assert np.array_equal(rows, vectors_of(["one text", "another"]))


def test_embed_json_is_one_object_a_line(run, fake):
    code, out, _ = run(
        "embed", "--json", "--model", MODEL, "--prompt-name", "query", "--priority", "bulk", "é"
    )
    assert code == 0
    (row,) = [json.loads(line) for line in out.splitlines()]
    assert (row["text"], row["token_count"], row["truncated"]) == ("é", 2, False)
    assert np.array_equal(np.array(row["embedding"], np.float32), vector_of("é"))
    assert fake.calls[0].inputs["PROMPT_NAME"] == [b"query"]
    assert fake.calls[0].parameters["service_class"] == "bulk"


def test_embed_reads_lines_and_writes_npy(run, fake, tmp_path):
    path = tmp_path / "out.npy"
    code, out, err = run("embed", "--output", str(path), stdin="a\n\nlast é\r\nend".encode())
    assert (code, out) == (0, "")
    assert "wrote (4, 8)" in err
    assert np.array_equal(np.load(path), vectors_of(["a", "", "last é", "end"]))


def test_embed_tells_of_truncation_on_stderr(run):
    code, out, err = run("embed", "TOO LONG", "b")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "1 of 2 texts" in err


def test_embed_of_nothing_prints_nothing(run):
    assert run("embed", stdin=b"") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["embed"], None, "no text"),
        (["embed", "--output", "x.txt", "a"], None, "ending in .npy"),
        (["embed", "--output", "x.npy", "--json", "a"], None, "--json"),
        (["embed", "--priority", "high", "a"], None, "invalid choice"),
        (["embed", "--timeout", "-1", "a"], None, "timeout_s is -1"),
        (["embed", "--timeout", "soon", "a"], None, "invalid float"),
        (["embed", "--prompt", "query", "a"], None, "unrecognized"),
        (["embed", "--prompt-name", "q", "--instruction", "i", "a"], None, "both"),
        (["embed", "--url", "http://x", "a"], None, "without a scheme"),
        (["embed"], b"fine\n\xff\n", "line 2 of stdin"),
        (["frobnicate"], None, "invalid choice"),
        ([], None, "COMMAND"),
        (["serve"], None, "repository"),
        (["serve", ".", "--host", "example"], None, "host is 'example'"),
        (["serve", ".", "--stop-timeout", "0"], None, "stop_timeout_s is 0.0"),
        (["serve", ".", "--stop-timeout", "inf"], None, "stop_timeout_s is inf"),
        (["serve", ".", "--stop-timeout", "soon"], None, "invalid float"),
        (["serve", ".", "--probe-interval", "-1"], None, "interval_s is -1.0"),
    ],
)
def test_wrong_usage_exits_2_and_says_why(run, arguments, stdin, words):
    code, out, err = run(*arguments, stdin=stdin)
    assert (code, out) == (2, "")
    assert words in err


def test_what_the_server_refuses_is_wrong_usage_and_what_it_fails_at_is_failure(run, fake):
    fake.first.append(refuse(grpc.StatusCode.INVALID_ARGUMENT, "unknown prompt 'q'"))
    code, out, err = run("embed", "--prompt-name", "q", "a")
    assert (code, out) == (2, "")
    assert "unknown prompt 'q'" in err
    fake.first.append(refuse(grpc.StatusCode.INTERNAL, "engine failed"))
    assert run("embed", "a")[0] == 1


def test_no_server_exits_1_soon(run):
    code, out, err = run("embed", "--url", "127.0.0.1:1", "--model", MODEL, "a")
    assert (code, out) == (1, "")
    assert "UNAVAILABLE" in err
    assert run("models", "--url", "127.0.0.1:1")[0] == 1


@pytest.mark.parametrize("command", [("embed", "--timeout", "3", "a"), ("models",)])
def test_who_cannot_be_reached_is_named_by_address_where_no_model_was(run, command):
    code, out, err = run(*command, "--url", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err.startswith("lasttoken: 127.0.0.1:1: ")
    assert "sfr_embedding_mistral" not in err


def test_embed_corpus_names_the_address_too(run, tmp_path):
    code, _, err = run("embed-corpus", "in", "--output", str(tmp_path), "--url", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("lasttoken: 127.0.0.1:1: ")


def test_a_model_that_is_not_there_is_wrong_usage_and_one_that_is_not_ready_is_not(run, fake):
    code, out, err = run("embed", "--model", "nosuch", "a")
    assert (code, out) == (2, "")
    assert "nosuch" in err
    fake.models = {MODEL: "LOADING"}
    code, _, err = run("embed", "a")
    assert code == 1
    assert "no text-embedding model that is ready" in err
    fake.models = {MODEL: "READY"}
    fake.first.append(refuse(grpc.StatusCode.FAILED_PRECONDITION, "not now"))
    assert run("embed", "a")[0] == 1


def test_serve_of_no_repository_exits_1(run, tmp_path):
    code, _, err = run("serve", str(tmp_path / "missing"), "--cache", str(tmp_path))
    assert code == 1
    assert "missing" in err


def test_ctrl_c_exits_130(run, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddingClient, "embed_blocks", interrupted)
    assert run("embed", "a") == (130, "", "")


def test_models_of_the_catalogue_need_no_server(run):
    code, out, _ = run("models", "--catalogue", "--url", "127.0.0.1:1")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert len(lines) == 13
    assert "4096" in lines["sfr-embedding-mistral"]
    assert "cc-by-nc-4.0 (research only" in lines["sfr-embedding-mistral"]
    _, out, _ = run("models", "--catalogue", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["name"] for row in rows} == set(lines) - {"NAME"}


def test_without_the_exporter_the_catalogue_says_what_to_install(run, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lasttoken_export"]:
        monkeypatch.delitem(sys.modules, name)

    class NotInstalled:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "lasttoken_export":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [NotInstalled, *sys.meta_path])
    code, _, err = run("models", "--catalogue")
    assert code == 1
    assert "pip install lasttoken-export" in err


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({}, "-"),
        ({"quality": {"status": "measured", "mean_cosine": 0.99712}}, "cosine 0.99712"),
        ({"quality": {"status": "not measured"}, "checks": {"weight_bytes_compared": 5}},
         "not measured"),
        ({"quality": {"status": "reference"}, "checks": {"weight_bytes_compared": 5}},
         "exact weights"),
        ({"quality": {"status": "reference"}, "checks": {"parity_lowest_cosine": 0.9999999}},
         "cosine 1.00000"),
    ],
)  # fmt: skip
def test_parity_is_what_the_card_measured(card, words):
    assert parity(card) == words


def test_models_lists_what_can_be_asked(run, fake):
    fake.models = {MODEL: "READY", "toy_tokenizer": "READY", "late": "LOADING"}
    card = {"precision": "fp16", "revision": "938c560d1c236aa5", "licence": {"id": "mit"}}
    fake.card = json.dumps(card)
    code, out, _ = run("models")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["NAME", "VERSION", "DIMENSIONS", "READY", "PRECISION", "PARITY", "REVISION", "LICENCE"],
        ["late", "1", "-", "no", "-", "-", "-", "-"],
        [MODEL, "1", "8", "yes", "fp16", "-", "938c560d1c23", "mit"],
    ]
    _, out, _ = run("models", "--json")
    assert json.loads(out.splitlines()[1]) == {
        "name": MODEL,
        "version": "1",
        "dimensions": 8,
        "ready": True,
        "card": card,
    }


def test_the_model_must_be_named_when_there_are_several(run, fake):
    fake.models = {MODEL: "READY", "other": "READY"}
    code, _, err = run("embed", "a")
    assert code == 2
    assert "other" in err
    assert "--model" in err
    assert run("embed", "--model", "other", "a")[0] == 0


def test_a_reader_that_leaves_ends_it_quietly(fake):
    command = [sys.executable, "-m", "lasttoken.cli", "embed", "--url", fake.url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.write(b"text\n" * 5000)
        process.stdin.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_the_environment_is_read_by_the_command_line_alone():
    package = Path(cli.__file__).parent
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"environ\.get|getenv|LASTTOKEN_", path.read_text())
    }
    assert readers
    assert all(name.startswith("commands/") for name in readers), readers
