"""Published scores: the arithmetic and the refusals; the large models' weights are not here."""

import dataclasses
import json

import numpy as np
import pytest

from lasttoken_export import cli, golden_scores
from lasttoken_export.catalogue import entry
from lasttoken_export.commands import verify
from lasttoken_export.errors import InvalidOption, ModelNotFound, VerificationFailed
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
