"""The examples of docs/corpora.md and docs/frameworks.md, run as they are."""

from __future__ import annotations

import pytest

from documented import code_blocks, run_block

pytestmark = pytest.mark.server


@pytest.mark.parametrize(("page", "least"), [("corpora.md", 5), ("frameworks.md", 4)])
def test_the_blocks_of_a_page_run_in_order(page, least, smollm2_server, tmp_path):
    blocks = code_blocks(page, {"python", "sh"})
    assert len(blocks) >= least
    for language, code in blocks:
        run_block(language, code, url=smollm2_server.grpc_url, folder=tmp_path)
