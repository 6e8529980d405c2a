"""Tasks from local files, and the figures of served vectors."""

import json
import sys

import numpy as np
import pytest

from lasttoken_export.catalogue import entry
from lasttoken_perf import cli, quality_served
from lasttoken_perf.errors import MissingLibrary, TaskUnavailable
from lasttoken_perf.mteb_task import TaskScore, open_mteb_task, score_rows, score_table
from lasttoken_perf.quality_served import quality_rows, render, spearman
from lasttoken_perf.quality_task import check_memory, task_of_folder
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


def test_judgements_in_another_layout_are_refused_with_the_place(folder):
    qrels = folder / "qrels/test.tsv"
    qrels.write_text("q2 0 d1 2\nq1 0 d2 1\n")  # trec_eval's
    with pytest.raises(TaskUnavailable, match=r"test\.tsv:2 cannot be read.*query-id, corpus-id"):
        task_of_folder("SciFact", folder)
    qrels.write_text(QRELS.replace("\t2\n", "\thigh\n"))
    with pytest.raises(TaskUnavailable, match=r"test\.tsv:2 cannot be read .*high"):
        task_of_folder("SciFact", folder)


def test_a_text_may_hold_what_unicode_calls_the_end_of_a_line(folder):
    lines = (folder / "corpus.jsonl").read_text()
    text = "fir\u2028st\x85"
    (folder / "corpus.jsonl").write_text("\ufeff" + lines.replace("first", text), encoding="utf-8")
    assert task_of_folder("SciFact", folder).documents[0] == f"One {text}".strip()
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": "a number as id"}\n')
    with pytest.raises(TaskUnavailable, match=r"corpus\.jsonl:1 is no JSON object"):
        task_of_folder("SciFact", folder)


def test_a_query_that_is_a_document_itself_does_not_find_itself(folder):
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('\n{"_id": "q1", "title": "Argument", "text": "query 1"}')
        corpus.write('\n{"_id": "q2", "text": "another text of the same id"}')
    task = task_of_folder("ArguAna", folder)
    assert task.itself == ((1, 3),)  # q1 alone, which is the second query
    documents = np.eye(5, 8, dtype=np.float32)
    queries = np.stack([documents[0], unit(documents[3:4] + 0.5 * documents[1:2])[0]])
    served = {"fp32": (queries, documents)}
    [row] = quality_rows(served, task.gains, task.itself)
    assert row["ndcg_at_10"] > quality_rows(served, task.gains)[0]["ndcg_at_10"]
    assert quality_rows(served, np.eye(2, 5)[::-1], [(0, 0)])[0]["ndcg_at_10"] < 1
    make_result(kind="quality", what="a test", rows=[row])


def test_a_task_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(TaskUnavailable, match=r"'NQ' has 4,000,000 queries .* 16000\d* GB"):
        check_memory("NQ", 4_000_000, 1_000_000_000)
    check_memory("SciFact", 300, 5_183)


def test_figures_do_not_depend_on_how_many_queries_are_ranked_at_a_time(monkeypatch):
    random = np.random.default_rng(1)
    exact = unit(random.normal(size=(23, 16))), unit(random.normal(size=(50, 16)))
    noisy = tuple(unit(part + 0.2 * random.normal(size=part.shape)) for part in exact)
    gains = np.eye(23, 50)
    whole = quality_rows({"fp32": exact, "int8": noisy}, gains, [(7, 3)])
    monkeypatch.setattr(quality_served, "_QUERIES_AT_A_TIME", 5)
    for one, other in zip(
        whole, quality_rows({"fp32": exact, "int8": noisy}, gains, [(7, 3)]), strict=True
    ):
        assert one == pytest.approx(other)


def test_a_task_has_a_digest_of_its_texts_and_judgements(folder):
    first = task_of_folder("SciFact", folder).sha256
    assert task_of_folder("Another", folder).sha256 == first
    (folder / "qrels/test.tsv").write_text(QRELS.replace("d2\t1", "d2\t2"))
    assert task_of_folder("SciFact", folder).sha256 != first


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
    with pytest.raises(TaskUnavailable, match=r"of that name: 'STS112' not.*Did you mean: 'STS12'"):
        open_mteb_task("STS112")


def test_a_task_of_several_says_which_part_lacks_its_data(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(TaskUnavailable) as refused:
        open_mteb_task("CQADupstackRetrieval")
    message = str(refused.value)
    assert "'CQADupstackRetrieval' is not at hand, of its part 'CQADupstackAndroid" in message
    assert "mteb.get_task('CQADupstackAndroid" in message
    assert "aggregate tasks" not in message


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
