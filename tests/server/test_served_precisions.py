"""Every precision of ONNX Runtime's CPU provider, of a real model, served by one real Triton."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lasttoken import EmbeddingClient
from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.precisions import PRECISIONS
from lasttoken_export.quality.quality_options import QualityOptions

pytestmark = [pytest.mark.server, pytest.mark.slow]

TEXTS = [
    "How do I reset my password?",
    "I forgot my login and need a new password.",
    "a",
    "The eruption threw so much ash into the stratosphere that the year had no summer.",
    "Die Katze schläft seit Stunden auf dem warmen Fensterbrett.",
    "def median(values): return sorted(values)[len(values) // 2]",
]
SERVED = [name for name, p in PRECISIONS.items() if "onnxruntime" in p.targets]
MEAN_COSINE = {"fp16": 0.9999, "int8": 0.999, "int8-weights": 0.999, "int4": 0.95}


def model_name(precision):
    return "minilm_" + precision.replace("-", "_")


@pytest.fixture(scope="module")
def clients(cache_folder, tmp_path_factory):
    """A client of each precision by its name."""
    minilm = entry("all-minilm-l6-v2")
    checkpoint = open_checkpoint(minilm.source, cache_folder=cache_folder)
    repository = tmp_path_factory.mktemp("precisions")
    for precision in SERVED:
        options = ExportOptions(
            output=repository,
            precision=precision,
            triton_name=model_name(precision),
            quality=QualityOptions(pairs=0),  # other tests measure quality
        )
        export_model(checkpoint, minilm, options)
    with LocalTriton(repository, cache_folder=cache_folder) as server:
        yield {name: EmbeddingClient(server.grpc_url, model_name(name)) for name in SERVED}
    cards = {
        name: json.loads((repository / model_name(name) / "1" / "card.json").read_text())
        for name in SERVED
    }
    for name, card in cards.items():
        assert card["precision"] == name
        assert (card["calibration"] is not None) == PRECISIONS[name].is_calibrated


def test_the_cpu_runs_these_precisions():
    assert SERVED == ["fp32", "fp16", "int8", "int8-weights", "int4"]


@pytest.mark.parametrize("precision", SERVED)
def test_served_vectors_do_not_depend_on_their_company(precision, clients):
    client = clients[precision]
    together = client.embed(TEXTS)
    alone = np.stack([client.embed(text) for text in TEXTS])
    assert together.tobytes() == alone.tobytes()
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("precision", list(MEAN_COSINE))
def test_served_vectors_stay_close_to_fp32(precision, clients):
    reference, vectors = clients["fp32"].embed(TEXTS), clients[precision].embed(TEXTS)
    assert (reference * vectors).sum(axis=1).mean() > MEAN_COSINE[precision]
    assert not np.array_equal(reference, vectors)
