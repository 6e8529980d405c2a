"""Published scores: the arithmetic and the refusals; the large models' weights are not here."""

import dataclasses
import json

import numpy as np
import pytest

from lasttoken_export import cli, golden_scores
from lasttoken_export.catalogue import entry
from lasttoken_export.commands import verify
from lasttoken_export.errors import (
    InvalidCatalogue,
    InvalidOption,
    ModelNotFound,
    VerificationFailed,
)
from lasttoken_export.golden_scores import check_golden_scores, compare_scores

MINILM = "all-minilm-l6-v2"
QUERIES = np.array([[1, 0], [0.6, 0.8]], np.float32)
PASSAGES = np.array([[0, 1], [0.8, 0.6]], np.float32)
SCORES = [[0.0, 80.0], [80.0, 96.0]]


def golden(scores=SCORES):
    return {"scores": scores, "source": "a card"}


def test_scores_are_cosines_times_100_queries_by_passages():
    report = compare_scores(QUERIES, PASSAGES, golden(), tolerance=0.05)
    np.testing.assert_allclose(report.scores, SCORES, atol=1e-4)
    assert report.largest_difference < 1e-4
    assert report.source == "a card"


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.0, 80.0], [80.0, 96.1]], "0.1.* off the published.*0.05 is allowed"),
        ([[0.0, 80.0], [96.0, 80.0]], "off the published"),
        ([[0.0, 80.0]], "scores were published"),
        ([[0.0, 80.0], [80.0, float("nan")]], "off the published"),
    ],
)
def test_other_scores_are_refused(scores, message):
    with pytest.raises(VerificationFailed, match=message):
        compare_scores(QUERIES, PASSAGES, golden(scores), tolerance=0.05)


MODELS_WITH_SCORES = (
    "bge-m3", "gte-qwen2-7b-instruct", "qwen3-embedding-0.6b", "qwen3-embedding-4b",
    "qwen3-embedding-8b", "sfr-embedding-2", "sfr-embedding-mistral",
)  # fmt: skip


@pytest.mark.parametrize("name", MODELS_WITH_SCORES)
def test_published_scores_have_their_own_passage_first(name):
    published = entry(name).golden_scores
    scores = np.array(published["scores"])
    assert scores.argmax(axis=1).tolist() == list(range(len(scores)))
    assert published["source"]


def test_what_was_published_in_half_precision_may_be_off_by_more(monkeypatch, tmp_path):
    written = entry("bge-m3")
    (tmp_path / "bge_m3" / "1").mkdir(parents=True)
    (tmp_path / "bge_m3" / "1" / "card.json").write_text('{"precision": "fp32"}')
    exact = np.array(written.golden_scores["scores"]) / 100

    def embedded(off):
        def embed(repository, name, texts, prompt_name):  # queries, then the unit vectors
            return (exact + off).astype(np.float32) if prompt_name else np.eye(2, dtype=np.float32)

        return embed

    monkeypatch.setattr(golden_scores, "_embed", embedded(0.0015))
    assert check_golden_scores(tmp_path, written).tolerance == 0.2
    monkeypatch.setattr(golden_scores, "_embed", embedded(0.003))
    with pytest.raises(VerificationFailed, match=r"0\.2 is allowed"):
        check_golden_scores(tmp_path, written)


@pytest.mark.parametrize(
    "change",
    [{"scores": [[1.0, 2.0]]}, {"query_prompt_name": "nothing"}, {"source": ""}, {"more": 1},
     {"scores": [[1.0, 2.0], [3.0, 101.0]]}],
)  # fmt: skip
def test_malformed_scores_are_refused(change):
    written = entry("bge-m3")
    with pytest.raises(InvalidCatalogue, match="golden_scores has the keys"):
        dataclasses.replace(written, golden_scores={**written.golden_scores, **change})


def test_sfrs_published_scores_are_in_the_catalogue():
    published = entry("sfr-embedding-mistral").golden_scores
    assert np.shape(published["scores"]) == (len(published["queries"]), len(published["passages"]))
    assert published["query_prompt_name"] in entry("sfr-embedding-mistral").tokenizer["prompts"]
    assert (np.diag(published["scores"]) > 80).all()


def test_a_model_without_scores_and_a_repository_without_the_model(tmp_path, capsys):
    with pytest.raises(InvalidOption, match="no published scores for smollm2-135m"):
        check_golden_scores(tmp_path, entry("smollm2-135m"))
    with pytest.raises(ModelNotFound, match="holds no model 'sfr_embedding_mistral'"):
        check_golden_scores(tmp_path, entry("sfr-embedding-mistral"))
    words = ["verify", "sfr-embedding-mistral", "--golden", "--repository", str(tmp_path)]
    assert cli.main(words) == 1
    assert "ModelNotFound" in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_is_embedded_with_its_own_files(tmp_path, capsys, monkeypatch):
    """Self-made scores of real weights: first what it gives, then the check against that."""
    assert cli.main([MINILM, "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    texts = {
        "source": "this test",
        "query_prompt_name": "query",
        "queries": ["How do I bake a cake?", "What are symptoms of the flu?"],
        "passages": ["Mix flour, sugar and eggs.", "Fever, cough and aching limbs."],
        "scores": [[0.0, 0.0], [0.0, 0.0]],
    }
    unknown = dataclasses.replace(entry(MINILM), golden_scores=texts)
    monkeypatch.setattr(golden_scores, "TOLERANCES", {"fp32": 200.0})
    found = check_golden_scores(tmp_path, unknown).scores
    assert found[0][0] > found[0][1] + 10
    assert found[1][1] > found[1][0] + 10
    monkeypatch.undo()
    known = dataclasses.replace(entry(MINILM), golden_scores={**texts, "scores": found})
    assert check_golden_scores(tmp_path, known).largest_difference == 0
    monkeypatch.setattr(verify, "catalogue_entry", lambda name: known)
    assert cli.main(["verify", MINILM, "--golden", "--repository", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["largest_difference"] == 0
    # Nor does it have to be exported anew for a parameter that has come since.
    config = tmp_path / "all_minilm_l6_v2_encoder" / "config.pbtxt"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "kept_prefix_tokens" not in line))
    assert len(config.read_text().splitlines()) < len(lines)
    assert check_golden_scores(tmp_path, known).largest_difference == 0
