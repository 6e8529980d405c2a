"""A task is embedded by a real server in the prompts that the verification takes."""

import numpy as np
import pytest

from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.token_rows import embed_rows, open_graph, tokenize_set
from lasttoken_export.quality.verify_repository import open_artefact
from lasttoken_perf.quality_served import embed_task
from lasttoken_perf.quality_task import task_of_set


@pytest.mark.server
def test_served_vectors_are_those_that_were_verified(smollm2_server, smollm2_repository):
    texts = open_set("python", pairs=6)
    artefact = open_artefact(smollm2_repository / "smollm2_135m")
    queries, documents = embed_task(
        smollm2_server.grpc_url,
        artefact.name,
        task_of_set(texts),
        prompts=artefact.card["prompts"],
        dimensions=576,
    )
    rows = tokenize_set(artefact.tokenizer_folder, texts)
    verified = embed_rows(open_graph(artefact.graph), rows)
    np.testing.assert_array_equal(np.concatenate([queries, documents]), verified)
