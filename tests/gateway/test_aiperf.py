"""NVIDIA's AIPerf puts a load on the gateway. Its pins are its own, and so is its environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from conftest import MODEL
from lasttoken.local.cache_folder import default_cache_folder
from lasttoken_export.model_sources import TOKENIZER

pytestmark = [pytest.mark.server, pytest.mark.slow]

VERSION = "0.13.0"
REQUESTS = 20


@pytest.fixture(scope="module")
def aiperf(cache_folder):
    folder = (cache_folder or default_cache_folder()) / f"aiperf-{VERSION}"
    if not (folder / ".done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        python = str(folder / "bin" / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if uv := shutil.which("uv"):  # some ten times as fast; `make test` has it
            pip = [uv, "pip", "install", "--quiet", "--python", python]
        done = subprocess.run(
            [*pip, f"aiperf=={VERSION}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"aiperf could not be installed; online?\n{done.stderr}"
        (folder / ".done").touch()
    return folder / "bin" / "aiperf"


def test_aiperf_measures_the_gateway(aiperf, gateway, smollm2_repository, tmp_path):
    tokenizer = tmp_path / "tokenizer"  # a folder, so that no hub is asked
    tokenizer.mkdir()
    source = smollm2_repository / f"{MODEL}{TOKENIZER}" / "1" / "tokenizer.json"
    shutil.copy(source, tokenizer)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    before = gateway.metric("lasttoken_gateway_texts_total", model=MODEL)
    done = subprocess.run(
        [str(aiperf), "profile", "--model", MODEL, "--endpoint-type", "embeddings",
         "--url", gateway.url, "--tokenizer", str(tokenizer), "--ui", "simple",
         "--request-count", str(REQUESTS), "--concurrency", "4",
         "--synthetic-input-tokens-mean", "20", "--artifact-dir", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert result["request_count"]["avg"] == REQUESTS
    assert not result.get("error_summary")
    assert gateway.metric("lasttoken_gateway_texts_total", model=MODEL) == before + REQUESTS
