"""The demonstration model, exported and served once for all tests that need it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model

# An example takes as long as the machine lets it, and the same ones are tried each time; what looks
# for new ones is `make fuzz`.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

MODEL = "smollm2_135m"


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts():
    """Also where a shell started the tests in its background: programs inherit what it ignores."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache_folder():
    folder = os.environ.get("LASTTOKEN_CACHE")
    return Path(folder) if folder else None


@pytest.fixture(scope="session")
def smollm2_checkpoint(cache_folder):
    return open_checkpoint(entry("smollm2-135m").source, cache_folder=cache_folder)


@pytest.fixture(scope="session")
def smollm2_repository(smollm2_checkpoint, tmp_path_factory):
    """A repository with the demonstration model in fp32, as the exporter writes it."""
    folder = tmp_path_factory.mktemp("repository")
    options = ExportOptions(output=folder, max_queue_tokens=8192)
    report = export_model(smollm2_checkpoint, entry("smollm2-135m"), options)
    assert report.triton_name == MODEL
    return folder


@pytest.fixture(scope="session")
def smollm2_server(smollm2_repository, cache_folder):
    """A real Triton that serves it."""
    with LocalTriton(smollm2_repository, cache_folder=cache_folder) as server:
        yield server
