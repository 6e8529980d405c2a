"""The table of the precisions: its arithmetic, its bars, and an engine process on a real graph."""

import json
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.quality.verify_repository import open_artefact
from lasttoken_perf.errors import InvalidUsage, PeerFailed, WrongAnswer
from lasttoken_perf.machine import describe_machine
from lasttoken_perf.precisions import exports_folder as exports
from lasttoken_perf.precisions.artefacts import export_precisions, file_sizes
from lasttoken_perf.precisions.earlier_quality import EarlierQuality, graph_digest
from lasttoken_perf.precisions.engine_process import EngineProcess, rows_of_batch
from lasttoken_perf.precisions.exports_folder import exports_folder
from lasttoken_perf.precisions.speed import BARE, SERVED, bare_rows, check_same_texts
from lasttoken_perf.precisions.table import QUALITY, bars, render
from lasttoken_perf.results import make_result
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG, make_entry
from unit.tokenizer.small import byte_level_tokenizer


def quality(precision, **changes):
    row = {
        "model": "m", "subject": QUALITY, "precision": precision, "file_bytes": 1000,
        "embedding_bytes": 250, "mean_cosine": 0.995, "p1_cosine": 0.99, "minimum_cosine": 0.98,
        "top10_overlap": 0.95, "ndcg_at_10": 0.5, "ndcg_change": -0.004,
        "ndcg_change_error": 0.001, "bitwise_batch_invariant": True,
    }  # fmt: skip
    return {**row, **changes}


def served(precision, *speeds):
    return [
        {"model": "m", "subject": SERVED, "precision": precision, "repeat": repeat,
         "tokens_per_s": speed}
        for repeat, speed in enumerate(speeds, start=1)
    ]  # fmt: skip


ROWS = [
    quality("fp32", mean_cosine=1.0),
    quality("fp16", file_bytes=500),
    quality("int8"),
    quality("int4", file_bytes=174, embedding_bytes=87),
    *served("fp32", 100, 200, 100),
    *served("int8", 210, 410, 230),
]


def test_a_bar_is_the_median_of_the_repeats_ratios():
    int8, int4 = bars(ROWS)
    assert int8.startswith("int8: 2.10 times fp32's served tokens/s (bar 2)")
    assert int8.endswith("reached")
    assert "0.348 of fp16's (bar 0.35), of it the token embedding 50% (in fp16 50%)" in int4
    assert int4.endswith("reached")


@pytest.mark.parametrize(
    "rows",
    [
        [*ROWS[:4], *served("fp32", 100), *served("int8", 199)],
        [quality("int8", mean_cosine=0.989), *ROWS[4:]],
        [quality("int8", top10_overlap=0.89), *ROWS[4:]],
    ],
)
def test_a_bar_that_is_missed_says_so(rows):
    assert bars(rows)[0].endswith("missed")


def test_a_speed_that_was_not_measured_is_neither_reached_nor_missed():
    [said] = bars([quality("int8")])
    assert said.startswith("int8: speed not measured (bar 2)")
    assert said.endswith(": quality reached")
    assert bars([quality("int8", mean_cosine=0.98)])[0].endswith("missed")


@pytest.mark.parametrize("changes", [{"file_bytes": 176}, {"mean_cosine": 0.979}])
def test_the_bar_of_int4_has_two_sides(changes):
    rows = [quality("fp16", file_bytes=500), quality("int4", **{"file_bytes": 174, **changes})]
    assert bars(rows)[0].endswith("missed")


def test_the_table_is_written_from_the_result():
    rows = [*ROWS, {"model": "m", "subject": QUALITY, "precision": "fp8", "discarded": "no kernel"}]
    rows.append({"model": "m", "subject": BARE, "precision": "int8", "repeat": 1,
                 "variant": "batches of 256 tokens", "tokens_per_s": 4321.0,
                 "rss_bytes": 123_000_000})  # fmt: skip
    result = make_result(
        kind="precisions", what="a test", rows=rows, settings={"clients": 4, "pairs": 30}
    )
    text = "\n".join(render(json.loads(json.dumps(result))))
    assert "| int8 | ONNX Runtime CPU | 0 | 25% | 123 | - | 4321 | - | 230 | 2.10 |" in text
    assert "| int4 | 0.99500 | 0.99000 | 0.98000 | 0.950 | 0.5000 | -0.40% ± 0.10% | yes |" in text
    assert "- fp8 is not in the table: no kernel" in text


def earlier_result(folder, **changes):
    """A result of another run on this machine, of 3 pairs."""
    rows = [quality("fp32", graph_sha256="f0"), quality("int8", graph_sha256="a0"), quality("int4")]
    settings, workload = {"clients": 4, "pairs": 3}, {"retrieval_set_sha256": "s0"}
    result = make_result(
        kind="precisions", what="a test", rows=rows, settings=settings, workload=workload
    )
    path = folder / "earlier.json"
    path.write_text(json.dumps({**result, "taken_at": "then", **changes}))
    return path


TEXTS = SimpleNamespace(sha256="s0", queries=["a", "b", "c"])


def test_quality_is_taken_from_an_earlier_result_of_the_same_bytes(tmp_path):
    earlier = EarlierQuality(earlier_result(tmp_path), TEXTS)
    found = earlier.of("m", "int8", "a0")
    assert (found["mean_cosine"], found["quality_taken_at"]) == (0.995, "then")
    assert "file_bytes" not in found
    assert earlier.of("m", "int8", "a1") is None
    assert earlier.of("m", "fp16", "a0") is None
    assert earlier.of("other", "int8", "a0") is None
    assert EarlierQuality(None, TEXTS).of("m", "int8", "a0") is None
    rows = [quality("fp32"), {**quality("int8"), **found}]
    made = make_result(
        kind="precisions", what="a test", rows=rows, settings={"clients": 4, "pairs": 3}
    )
    assert "The quality of m in int8 was taken then." in render(made)


def test_quality_that_was_taken_over_keeps_its_time(tmp_path):
    row = quality("int8", graph_sha256="a0", quality_taken_at="long ago")
    earlier = EarlierQuality(earlier_result(tmp_path, rows=[row]), TEXTS)
    assert earlier.of("m", "int8", "a0")["quality_taken_at"] == "long ago"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "sweep"}, "is of lasttoken-perf sweep"),
        ({"settings": {"pairs": 4}}, "number of pairs is 4, here it is 3"),
        ({"workload": {"retrieval_set_sha256": "s1"}}, "retrieval set is s1, here it is s0"),
        ({"machine": {"processor": "z80", "packages": {}}}, "ONNX Runtime is None"),
        ({"machine": {**describe_machine(), "processor": "z80"}}, "processor is z80"),
        ({"settings": None}, "number of pairs is None"),
        ({"workload": None}, "retrieval set is None"),
        ({"machine": {}}, "ONNX Runtime is None"),
    ],
)
def test_quality_of_something_else_is_refused(changes, words, tmp_path):
    with pytest.raises(InvalidUsage, match=words):
        EarlierQuality(earlier_result(tmp_path, **changes), TEXTS)


def test_the_digest_is_of_the_graph_and_its_weights(artefact, tmp_path):
    copy = tmp_path / "encoder.onnx"
    for path in (artefact.graph, artefact.graph.with_name("encoder.onnx.data")):
        shutil.copy(path, tmp_path)
    copied = SimpleNamespace(graph=copy)
    assert graph_digest(copied) == graph_digest(artefact)
    with copy.with_name("encoder.onnx.data").open("r+b") as file:
        file.write(b"x")
    assert graph_digest(copied) != graph_digest(artefact)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    root = tmp_path_factory.mktemp("precisions")
    folder = write_folder(root / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    options = ExportOptions(output=root / "repository", triton_name="small_fp32")
    export_model(open_checkpoint(folder), make_entry(), options)
    return open_artefact(root / "repository/small_fp32")


def test_an_engine_is_timed_in_a_process_of_its_own(artefact):
    rows = list(bare_rows([artefact], repeats=2, say=lambda message: None))
    assert [row["variant"] for row in rows if row["repeat"] == 2] == [
        "batches of 64 tokens", "batches of 256 tokens", "batches of 512 tokens"
    ]  # fmt: skip
    for row in rows:
        assert row["tokens_per_s"] == pytest.approx(2048 / row["seconds"])
        assert row["rss_bytes"] > 20e6
    ids, lengths = rows_of_batch(256, vocab_size=259)
    assert (len(ids), lengths.tolist()) == (256, [64] * 4)
    assert 0 <= ids.min() <= ids.max() < 259


def test_an_engine_that_cannot_load_is_reported(artefact, tmp_path):
    with pytest.raises(PeerFailed, match="ended with 1"):
        EngineProcess(tmp_path / "none.onnx", vocab_size=259)


def test_the_share_of_the_embedding_is_read_from_the_file(artefact):
    sizes = file_sizes(artefact)
    assert sizes["embedding_bytes"] == 259 * 32 * 4
    data = artefact.graph.with_name("encoder.onnx.data").stat().st_size
    assert sizes["file_bytes"] == data + artefact.graph.stat().st_size


def test_what_other_code_exported_is_exported_anew(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    checkpoint, told = open_checkpoint(folder), []
    kept = tmp_path / "kept"
    (kept / "mine").mkdir(parents=True)

    def export():
        with exports_folder(kept) as folder:
            [found] = export_precisions(
                checkpoint, make_entry(), folder, only=["fp32"], say=told.append
            )
            return found.artefact.repository

    first = export()
    assert export() == first
    assert len(told) == 1
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "model.py").write_text("changed")
    monkeypatch.setattr(exports, "model_sources", lambda: sources)
    second = export()
    assert len(told) == 2
    assert sorted(kept.iterdir()) == sorted([kept / "mine", second])


@pytest.fixture
def other_code(tmp_path, monkeypatch):
    """Changes what decides the subfolder of the exports."""
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(exports, "model_sources", lambda: sources)

    def change(text):
        (sources / "model.py").write_text(text)

    return change


def test_exports_that_another_run_serves_from_stay(tmp_path, other_code):
    kept = tmp_path / "kept"
    other_code("first")
    with exports_folder(kept) as first, exports_folder(kept) as again:
        assert first == again
        (first / "model").mkdir()
        other_code("second")
        with exports_folder(kept) as second:
            assert sorted(kept.iterdir()) == sorted([first, second])
            assert (first / "model").is_dir()
    with exports_folder(kept) as second:
        assert list(kept.iterdir()) == [second]


def test_a_run_waits_while_its_exports_are_removed_and_begins_anew(
    tmp_path, other_code, monkeypatch
):
    kept = tmp_path / "kept"
    other_code("first")
    with exports_folder(kept) as first:
        (first / "model").mkdir()
    remove, removing = shutil.rmtree, threading.Event()

    def slow(folder):
        removing.set()
        time.sleep(0.3)
        remove(folder)

    monkeypatch.setattr(exports.shutil, "rmtree", slow)
    remover = threading.Thread(target=exports._remove_if_unused, args=(first,))
    remover.start()
    removing.wait(10)
    with exports_folder(kept) as anew:
        assert anew == first
        assert not list(anew.iterdir())
    remover.join()
    assert first.is_dir()


def test_served_vectors_of_other_texts_are_no_result():
    exact = np.eye(4, 8, dtype=np.float32)
    rounded = exact + np.float32(0.1)
    check_same_texts("m_int8", rounded, exact)
    check_same_texts("m_int4", rounded[[0, 1, 3, 2]], exact)  # half, as of a coarse precision
    with pytest.raises(WrongAnswer, match="m_int8: only 25% of the served vectors"):
        check_same_texts("m_int8", rounded[[0, 2, 3, 1]], exact)
