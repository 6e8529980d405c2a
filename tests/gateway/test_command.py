"""The command line of the gateway."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments, **env):
    import os

    return subprocess.run(
        [sys.executable, "-m", "lasttoken.cli", "gateway", *arguments],
        capture_output=True, text=True, check=False, timeout=60, env=os.environ | env,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--alias", "x"), "alias is 'x'; write NAME=MODEL"),
        (("--max-texts", "0"), "max_texts is 0"),
        (("--key-file", "/nowhere"), "the keys cannot be read"),
        (("--tls-key", "/nowhere"), "go together"),
        (("--upstream-tls-ca", "/nowhere"), "root_certificates cannot be read"),
        (("--log-level", "loud"), "--log-level is 'loud'"),
        (("--host", "203.0.113.9"), "cannot be bound"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(arguments, words):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_keys_in_the_environment_are_checked_and_not_shown():
    done = run(LASTTOKEN_GATEWAY_API_KEYS="alice tooshort")
    assert done.returncode == 2
    assert "'alice' has 8 characters" in done.stderr
    assert "tooshort" not in done.stderr


def test_every_option_is_an_environment_variable_too():
    done = run("--port", "x", LASTTOKEN_GATEWAY_MAX_TEXTS="nope")
    assert "--port: invalid int" in done.stderr
    done = run(LASTTOKEN_GATEWAY_MAX_TEXTS="nope")
    assert "--max-texts: invalid int" in done.stderr
    page = run("--help").stdout
    for line in page.splitlines():
        option = line.strip().split()[0] if line.strip().startswith("--") else None
        if option and option != "--url":
            assert f"LASTTOKEN_GATEWAY_{option[2:].upper().replace('-', '_')}"[:26] in page
