"""Tasks from local files, and the figures of served vectors."""

import json
import sys

import numpy as np
import pytest

from lasttoken_export.catalogue import entry
from lasttoken_perf import cli
from lasttoken_perf.errors import MissingLibrary, TaskUnavailable
from lasttoken_perf.mteb_task import TaskScore, open_mteb_task, score_rows, score_table
from lasttoken_perf.quality_served import quality_rows, render, spearman
from lasttoken_perf.quality_task import task_of_folder
from lasttoken_perf.results import make_result

QRELS = "query-id\tcorpus-id\tscore\nq2\td1\t2\nq2\td3\t1\nq1\td2\t1\nq3\td1\t0\n"


@pytest.fixture
def folder(tmp_path):
    """BEIR's layout."""
    corpus = [
        {"_id": "d1", "title": "One", "text": "first"},
        {"_id": "d2", "title": "", "text": "second"},
        {"_id": "d3", "text": "third"},
    ]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in (1, 2, 3)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text(QRELS)
    return tmp_path


def test_a_task_is_read_with_its_graded_judgements(folder):
    task = task_of_folder("SciFact", folder)
    assert task.documents == ("One first", "second", "third")
    assert task.queries == ("query 2", "query 1")  # q3 has no relevant document
    assert task.gains.tolist() == [[2, 0, 1], [0, 1, 0]]


def test_data_that_is_not_at_hand_is_refused(folder):
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(TaskUnavailable, match=r"'SciFact' is not at hand: .*corpus\.jsonl is miss"):
        task_of_folder("SciFact", folder)


def test_data_that_is_not_whole_is_refused(folder):
    (folder / "qrels/test.tsv").write_text(QRELS + "q1\td9\t1\n")
    with pytest.raises(TaskUnavailable, match="judges 'd9', which is in neither file"):
        task_of_folder("SciFact", folder)
    (folder / "queries.jsonl").write_text('{"_id": "q1"}\n')
    with pytest.raises(TaskUnavailable, match=r"queries\.jsonl:1 is no JSON object"):
        task_of_folder("SciFact", folder)


def test_the_command_line_refuses_a_task_without_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))
    assert cli.main(["quality", "--task", "NFCorpus"]) == 1
    assert "the data of the task 'NFCorpus' is not at hand" in capsys.readouterr().err


def test_a_task_of_mteb_without_data_says_which_and_where_it_looked(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(TaskUnavailable) as refused:
        open_mteb_task("STS12")
    message = str(refused.value)
    assert "the data of the task 'STS12' is not at hand: 'mteb/sts12-sts'" in message
    assert str(tmp_path) in message
    assert "mteb.get_task('STS12').load_data()" in message


def test_the_data_of_a_task_is_looked_for_without_network(monkeypatch):
    from datasets import config
    from huggingface_hub import constants
    from mteb.abstasks import AbsTask

    flags = []

    def load_data(task, **options):
        flags.append((config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(AbsTask, "load_data", load_data)
    open_mteb_task("STS12")
    assert flags == [(True, True)]
    assert (config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (False, False)


def test_a_name_that_mteb_does_not_know_is_refused():
    with pytest.raises(TaskUnavailable, match=r"no task of that name: .*Did you mean: 'STS12'"):
        open_mteb_task("STS112")


def test_without_mteb_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'lasttoken-perf\[mteb\]'"):
        open_mteb_task("STS12")


def test_scores_stand_beside_those_of_fp32_and_published_ones_apart():
    def score(subset, value):
        return TaskScore(split="test", subset=subset, metric="cosine_spearman", score=value)

    scores = {
        "fp32": [score("en", 0.8), score("de", 0.5)], "int8": [score("en", 0.76), score("de", 0.5)],
    }  # fmt: skip
    rows = score_rows("STS22", "lasttoken server", scores)
    assert [row["main_score_change"] for row in rows] == pytest.approx([0, 0, -0.05, 0])
    assert rows[2]["variant"] == "test, en"
    make_result(kind="quality", what="a test", rows=rows)  # every field is documented
    lines = list(score_table(rows, entry("all-minilm-l6-v2").quality))
    assert lines[0].startswith("Measured on MTEB's STS22")
    assert "| int8 | test, en | cosine_spearman | 76.00 | -5.00% |" in lines
    assert lines[-1].startswith("Published, not measured here: ")


def test_rank_correlation_is_that_of_scipy():
    spearmanr = pytest.importorskip("scipy.stats").spearmanr
    random = np.random.default_rng(0)
    one = random.normal(size=200)
    other = one + random.normal(size=200)
    ties = np.round(other)
    assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert spearman(one, ties) == pytest.approx(spearmanr(one, ties).statistic)
    assert spearman(one, -one) == pytest.approx(-1)


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_every_precision_is_compared_with_fp32():
    random = np.random.default_rng(0)
    documents = random.normal(size=(40, 16))
    exact = unit(documents[:30] + 0.5 * random.normal(size=(30, 16))), unit(documents)
    noisy = tuple(unit(part + 0.1 * random.normal(size=part.shape)) for part in exact)
    gains = np.eye(30, 40)
    fp32, int8 = quality_rows({"fp32": exact, "int8": noisy}, gains)
    assert (fp32["ndcg_change"], fp32["top10_overlap"]) == (0, 1)
    assert fp32["similarity_spearman"] == pytest.approx(1)
    assert int8["ndcg_at_10"] == pytest.approx(fp32["ndcg_at_10"] * (1 + int8["ndcg_change"]))
    assert int8["minimum_cosine"] < int8["p1_cosine"] < int8["mean_cosine"] < 0.97
    assert 0.5 < int8["similarity_spearman"] < 0.99
    make_result(kind="quality", what="a test", rows=[fp32, int8])  # every field is documented


def test_published_figures_are_marked(folder):
    lines = []
    task = task_of_folder("SciFact", folder)
    render([], entry("all-minilm-l6-v2").quality, task, line=lines.append)
    assert "Published, not measured here: retrieval 41.9 (MTEB English v1, 56 tasks)" in lines
    render([], entry("smollm2-135m").quality, task, line=lines.append)
    assert lines[-1].startswith("Published figures: none")
