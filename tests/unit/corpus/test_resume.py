"""An interrupted run goes on where it was, and no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lasttoken import InvalidInput, LasttokenError
from lasttoken.cli import main
from lasttoken.corpus import embed_corpus
from unit.client.fake_triton import answer, delay, refuse
from unit.corpus.conftest import CARD, check_output, some_rows


def sent_texts(fake) -> list[bytes]:
    return [text for call in fake.calls for text in call.texts]


@pytest.fixture
def interrupted(options, fake, tmp_path):
    """A run of ten parts that ended in the middle, because a text was refused."""

    def refuse_late(call, tensors):
        if any(text.startswith(b"text 650 ") for text in call.texts):
            refuse(grpc.StatusCode.INVALID_ARGUMENT, "not this one")(call, tensors)

    table = some_rows(1000)
    fake.otherwise = refuse_late
    with pytest.raises(InvalidInput, match=r"row 650 of .*in\.parquet: .*not this one"):
        embed_corpus(options(table, rows_per_part=100))
    fake.otherwise = answer
    fake.calls.clear()
    return table


def test_finished_parts_are_not_made_again(interrupted, options, fake, tmp_path):
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert len(there) >= 1
    assert not list((tmp_path / "out").glob("_tmp-*"))
    report = embed_corpus(options(rows_per_part=100, resume=True))
    check_output(tmp_path / "out", interrupted)
    assert report.resumed_parts == len(there)
    assert report.counts.rows == 1000
    for name, changed in there.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == changed
    kept = pa.concat_tables([pq.read_table(tmp_path / "out" / name) for name in sorted(there)])
    sent = set(sent_texts(fake))
    assert not sent & {text.encode() for text in kept["text"].to_pylist()}
    assert len(sent) == 1000 - kept.num_rows + 1  # and the text that tries the prompt


def test_a_finished_run_resumed_does_nothing(options, fake, tmp_path):
    table = some_rows(20)
    embed_corpus(options(table))
    fake.calls.clear()
    report = embed_corpus(options(resume=True))
    assert (report.resumed_rows, report.counts.rows) == (20, 20)
    assert sent_texts(fake) == [b"a"]


def test_broken_and_missing_parts_are_made_anew(options, tmp_path):
    table = some_rows(500)
    embed_corpus(options(table, rows_per_part=100))
    out = tmp_path / "out"
    (out / "part-0000001.parquet").unlink()
    whole = (out / "part-0000003.parquet").read_bytes()
    (out / "part-0000003.parquet").write_bytes(whole[: len(whole) // 2])
    (out / "_tmp-part-0000004.parquet-deadbeef").write_bytes(b"half")
    report = embed_corpus(options(rows_per_part=100, resume=True))
    check_output(out, table)
    assert report.resumed_parts == 3
    assert not list(out.glob("_tmp-*"))


def test_a_part_with_too_few_rows_is_made_anew(options, tmp_path):
    table = some_rows(250)
    embed_corpus(options(table, rows_per_part=100))
    out = tmp_path / "out"
    (out / "part-0000000.parquet").write_bytes((out / "part-0000002.parquet").read_bytes())
    assert embed_corpus(options(rows_per_part=100, resume=True)).resumed_parts == 2
    check_output(out, table)


def test_a_folder_is_not_written_to_by_accident(options, tmp_path):
    embed_corpus(options(some_rows(5)))
    with pytest.raises(InvalidInput, match="--resume"):
        embed_corpus(options())
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(InvalidInput, match="holds other files"):
            embed_corpus(options(output=str(other), resume=resume))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompt_name": "query"}, "prompt_name"),
        ({"instruction": "find"}, "instruction"),
        ({"vector_dtype": "float16"}, "vector_dtype"),
        ({"rows_per_part": 7}, "rows_per_part"),
        ({"columns": ("id",)}, "columns"),
    ],
)
def test_another_run_does_not_resume_this_one(options, tmp_path, changes, named):
    embed_corpus(options(some_rows(5)))
    with pytest.raises(InvalidInput, match=rf"another run.*{named}"):
        embed_corpus(options(resume=True, **changes))


@pytest.mark.parametrize("changed", ["revision", "precision", "sha256"])
def test_another_model_does_not_resume_this_run(options, fake, changed):
    embed_corpus(options(some_rows(5)))
    fake.card = json.dumps({**CARD, changed: {"graph": "x"} if changed == "sha256" else "other"})
    with pytest.raises(InvalidInput, match=r"another run.*model"):
        embed_corpus(options(resume=True))


def test_changed_inputs_do_not_resume_this_run(options):
    embed_corpus(options(some_rows(5)))
    with pytest.raises(InvalidInput, match=r"another run.*sources"):
        embed_corpus(options(some_rows(6), resume=True))


def test_a_part_of_another_run_is_not_taken_for_ours(options, tmp_path):
    embed_corpus(options(some_rows(5)))
    embed_corpus(options(output=str(tmp_path / "b"), prompt_name="query"))
    part = "part-0000000.parquet"
    (tmp_path / "out" / part).write_bytes((tmp_path / "b" / part).read_bytes())
    with pytest.raises(InvalidInput, match="belongs to another run"):
        embed_corpus(options(resume=True))


def test_ctrl_c_leaves_whole_parts_and_resume_finishes(options, fake, tmp_path, capsys):
    table = some_rows(1500)
    settings = options(table)
    fake.otherwise = delay(0.15)
    arguments = [
        "embed-corpus", *settings.inputs, "--output", settings.output, "--url", fake.url,
        "--rows-per-part", "100", "--max-in-flight", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "lasttoken.cli", *arguments], stderr=subprocess.PIPE, text=True
    )
    out = tmp_path / "out"
    assert fake.wait_until(lambda _: len(list(out.glob("part-*"))) >= 2, seconds=60)
    os.kill(process.pid, signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--resume continues" in words
    assert "Traceback" not in words
    done = len(list(out.glob("part-*")))
    assert 2 <= done < 15
    assert not list(out.glob("_tmp-*"))
    fake.otherwise = answer
    assert main([*arguments, "--resume", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["resumed_parts"]) == (1500, done)
    check_output(out, table)


def test_killed_in_the_middle_nothing_is_lost_or_doubled(options, fake, tmp_path):
    table = some_rows(1500)
    settings = options(table)
    fake.otherwise = delay(0.1)
    out = tmp_path / "out"
    code = (
        "from lasttoken.corpus import *;"
        f"embed_corpus(CorpusOptions(inputs={settings.inputs!r}, output={settings.output!r},"
        f"model={settings.model!r}, urls={settings.urls!r}, rows_per_part=100, max_in_flight=2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    assert fake.wait_until(lambda _: len(list(out.glob("part-*"))) >= 3, seconds=60)
    process.kill()
    process.wait()
    time.sleep(0.2)  # its last requests end
    fake.otherwise = answer
    report = embed_corpus(options(rows_per_part=100, resume=True))
    assert report.resumed_parts >= 3
    check_output(out, table)
    assert not list(out.glob("_tmp-*"))


def test_an_unreadable_manifest_is_said(options, tmp_path):
    embed_corpus(options(some_rows(5)))
    (tmp_path / "out" / "_lasttoken.json").write_text("[]")
    with pytest.raises(LasttokenError, match="cannot be read"):
        embed_corpus(options(resume=True))
