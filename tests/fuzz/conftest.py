import json

import pytest

from fuzz import bounds
from fuzz.good_files import TINY, safetensors_file
from fuzz.readers import Readers
from unit.tokenizer.small import byte_level_tokenizer


@pytest.fixture(scope="session")
def readers(tmp_path_factory):
    return Readers(tmp_path_factory.mktemp("fuzz"), TINY)


@pytest.fixture(scope="session")
def whole_folder_readers(tmp_path_factory):
    """With weights and a tokenizer in their folder."""
    folder = tmp_path_factory.mktemp("fuzz_folder")
    config = {**TINY, "vocab_size": 259}
    (folder / "model.safetensors").write_bytes(safetensors_file(folder))
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    assert json.loads((folder / "tokenizer.json").read_text())
    return Readers(folder, config)


def pytest_terminal_summary(terminalreporter):
    if bounds.EXAMPLES:
        terminalreporter.write_line(f"{bounds.inputs:,} inputs were tried")
