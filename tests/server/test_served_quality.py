"""A task is embedded by a real server in the prompts that the verification takes.

And a task of mteb's runs on it from a datasets cache on disk, without a network.
"""

import importlib
import json

import numpy as np
import pytest

from lasttoken import EmbeddingClient
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quality.token_rows import embed_rows, open_graph, tokenize_set
from lasttoken_export.quality.verify_repository import open_artefact
from lasttoken_perf import quality_served
from lasttoken_perf.cli import main
from lasttoken_perf.errors import TaskUnavailable
from lasttoken_perf.mteb_task import open_mteb_task, score_served
from lasttoken_perf.quality_served import embed_task, spearman
from lasttoken_perf.quality_task import task_of_set


@pytest.mark.server
def test_served_vectors_are_those_that_were_verified(
    smollm2_server, smollm2_repository, monkeypatch
):
    calls = []

    class Client(EmbeddingClient):
        def embed(self, texts, **options):
            calls.append(len(texts))
            return super().embed(texts, **options)

    monkeypatch.setattr(quality_served, "EmbeddingClient", Client)
    monkeypatch.setattr(quality_served, "TEXTS_A_CALL", 4)
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
    assert calls == [4, 2, 4, 2], "a call's deadline is that of a few batches"


@pytest.mark.server
def test_the_command_exports_serves_and_compares(tmp_path):
    found = tmp_path / "quality.json"
    arguments = ["quality", "--model", "all-minilm-l6-v2", "--precision", "fp16", "--set", "python"]
    places = ["--pairs", "6", "--folder", str(tmp_path / "exports"), "--output", str(found)]
    assert main([*arguments, *places]) == 0
    rows = {row["precision"]: row for row in json.loads(found.read_text())["rows"]}
    assert set(rows) == {"fp32", "fp16"}
    assert rows["fp32"]["mean_cosine"] == pytest.approx(1, abs=1e-6)
    assert 0.999 < rows["fp16"]["minimum_cosine"] < 1


REVISION = "a" * 40
PAIRS = [
    ("A cat sleeps on the sofa.", "A kitten naps on the couch.", 4.8),
    ("The market crashed today.", "Share prices fell this afternoon.", 4.2),
    ("She plays the violin.", "He repairs bicycles.", 0.6),
    ("It rains in Paris.", "The report is due on Monday.", 0.1),
    ("A man is cooking rice.", "Someone prepares food.", 3.1),
]


@pytest.fixture
def cached_task(tmp_path, monkeypatch):
    """A task of mteb's registry whose data lies in the cache as datasets leaves it there."""
    from datasets import config
    from datasets.packaged_modules.json.json import Json
    from mteb.abstasks import AbsTaskSTS
    from mteb.mocks import MockSTSTask

    file = tmp_path / "test.jsonl"
    names = ("sentence1", "sentence2", "score")
    file.write_text("\n".join(json.dumps(dict(zip(names, pair, strict=True))) for pair in PAIRS))
    cache = tmp_path / "cache"
    builder = Json(
        cache_dir=str(tmp_path), dataset_name="toy-sts", data_files={"test": [str(file)]}
    )
    builder.download_and_prepare(str(cache / "lasttoken___toy-sts/default/0.0.0" / REVISION))
    file.unlink()  # from here on only the cache has it
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", cache)

    class ToySTS(AbsTaskSTS):
        metadata = MockSTSTask.metadata.model_copy(
            update={
                "name": "ToySTS",
                "eval_splits": ["test"],
                "dataset": {"path": "lasttoken/toy-sts", "revision": REVISION},
            }
        )
        min_score, max_score = 0, 5

    registry = importlib.import_module("mteb.get_tasks")._TASKS_REGISTRY
    monkeypatch.setitem(registry, "ToySTS", ToySTS)
    return cache


@pytest.mark.server
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_task_in_the_datasets_cache_is_scored_by_mteb_on_the_served_model(
    cached_task, smollm2_server
):
    [score] = score_served(smollm2_server.grpc_url, "smollm2_135m", open_mteb_task("ToySTS"))
    assert (score.split, score.subset, score.metric) == ("test", "default", "cosine_spearman")
    with EmbeddingClient(smollm2_server.grpc_url, "smollm2_135m") as client:
        first, second = (client.embed([pair[side] for pair in PAIRS]) for side in (0, 1))
    ours = spearman((first * second).sum(axis=1), np.array([pair[2] for pair in PAIRS]))
    assert score.score == pytest.approx(ours, abs=1e-6)


def test_a_task_whose_cache_is_gone_is_refused(cached_task):
    for file in cached_task.rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(TaskUnavailable, match="'lasttoken/toy-sts' in revision"):
        open_mteb_task("ToySTS")
