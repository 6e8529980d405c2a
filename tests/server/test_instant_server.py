"""The server of the client benchmarks keeps the contract of a real model."""

from __future__ import annotations

import numpy as np
import pytest

from lasttoken import EmbeddingClient
from lasttoken_perf.instant_server import instant_server, write_instant_repository

pytestmark = pytest.mark.server


def test_it_answers_with_unit_vectors_of_the_size_asked_for(
    smollm2_repository, tmp_path, cache_folder
):
    repository = tmp_path / "repository"
    name = write_instant_repository(repository, 384, donor=smollm2_repository)
    with (
        instant_server(384, repository=repository, cache_folder=cache_folder) as served,
        EmbeddingClient(served.grpc_url, served.model) as client,
    ):
        assert served.model == name
        texts = [f"text {'word ' * (i % 9)}{i}" for i in range(200)]
        full = client.embed_full(texts)
        assert full.vectors.shape == (200, 384)
        assert np.allclose(np.linalg.norm(full.vectors, axis=1), 1.0, atol=1e-5)
        assert full.token_counts.min() > 1
        # The same text has the same vector, alone or among others; another has another.
        assert np.array_equal(client.embed(texts[7]), full.vectors[7])
        assert len(np.unique(full.vectors[:, 0])) > 100
        assert client.model_info().dimensions == 384
