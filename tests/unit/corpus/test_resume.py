"""An interrupted run goes on where it was, and no other."""

from __future__ import annotations

import json
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


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def corpus_process(fake, settings, *arguments):
    command = [sys.executable, "-m", "lasttoken.cli", "embed-corpus", *settings.inputs]
    command += ["--output", settings.output, "--url", fake.url, "--max-in-flight", "2", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_stopped_run_leaves_whole_parts_and_resume_finishes(
    options, fake, tmp_path, capsys, number, code
):
    table = some_rows(1500)
    settings = options(table)
    fake.otherwise = delay(0.15)
    process = corpus_process(fake, settings, "--rows-per-part", "100")
    out = tmp_path / "out"
    assert fake.wait_until(lambda _: len(list(out.glob("part-*"))) >= 2, seconds=60)
    process.send_signal(number)
    _, words = process.communicate(timeout=30)
    assert process.returncode == code
    done = len(list(out.glob("part-*")))
    assert words == (
        f"lasttoken: interrupted: {done}00 of 1500 rows are done, in the finished parts in {out}; "
        "--resume goes on with them\n"
    )
    assert 2 <= done < 15
    assert not list(out.glob("_tmp-*"))
    fake.otherwise = answer
    command = ["embed-corpus", *settings.inputs, "--output", settings.output, "--url", fake.url]
    assert main([*command, "--resume", "--json"]) == 0  # parts are as large as they were
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["resumed_parts"], result["parts"]) == (1500, done, 15)
    check_output(out, table)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_run_stopped_before_its_first_part_leaves_nothing_and_says_so(
    options, fake, tmp_path, number, code, folder
):
    settings = options(some_rows(300))
    out = tmp_path / "out"
    if folder == "empty":
        out.mkdir()
    fake.first.append(answer)  # what tries the prompt
    fake.otherwise = delay(60)
    process = corpus_process(fake, settings)
    assert fake.wait_until(lambda f: len(f.calls) > 1, seconds=60)
    assert (out / "_lasttoken.json").exists()
    process.send_signal(number)
    _, words = process.communicate(timeout=30)
    assert process.returncode == code
    assert words == "lasttoken: interrupted: no part is finished, and nothing is left behind\n"
    assert (list(out.iterdir()) if folder == "empty" else out.exists()) in ([], False)


def test_a_run_that_fails_before_its_first_part_does_not_stand_in_the_way(options, fake, tmp_path):
    def refuse_one(call, tensors):
        if any(text.startswith(b"text 7 ") for text in call.texts):
            refuse(grpc.StatusCode.INVALID_ARGUMENT, "not this one")(call, tensors)

    fake.otherwise = refuse_one
    with pytest.raises(InvalidInput, match="not this one"):
        embed_corpus(options(some_rows(10)))
    assert not (tmp_path / "out").exists()
    assert embed_corpus(options(on_refused="null")).counts.refused == 1


def test_what_is_not_said_again_is_as_it_was(options, fake, tmp_path, capsys):
    settings = options(some_rows(250).rename_columns(["id", "body", "tags"]))
    command = ["embed-corpus", *settings.inputs, "--output", settings.output, "--url", fake.url]
    said = ["--column", "body", "--columns", "id,body", "--vector-column", "v", "--dtype"]
    said += ["float16", "--dimensions", "4", "--force-dimensions", "--rows-per-part", "100"]
    said += ["--compression", "snappy", "--on-refused", "null", "--prompt-name", "query"]
    assert main([*command, *said]) == 0
    part = tmp_path / "out" / "part-0000001.parquet"
    whole = part.read_bytes()
    part.unlink()
    fake.models["another"] = "READY"  # the model is that of the run, too
    fake.calls.clear()
    capsys.readouterr()
    assert main([*command, "--resume", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["parts"], result["resumed_parts"]) == (3, 2)
    assert part.read_bytes() == whole
    assert {bytes(call.inputs["PROMPT_NAME"][0]) for call in fake.calls} == {b"query"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (("--rows-per-part", "200"), "rows_per_part was 100, is 200"),
        (("--prompt-name", "document"), "prompt_name was 'query', is 'document'"),
        (("--instruction", "find"), "prompt_name was 'query', is None; instruction was None, is"),
        (("--column", "id"), "holds int64"),
        (("--columns", "text"), "columns was None, is ['text']"),
        (("--dimensions", "4", "--force-dimensions"), "dimensions was 8, is 4"),
        (("--dtype", "float16"), "vector_dtype was 'float32', is 'float16'"),
        (("--model", "another"), "model was"),
    ],
)
def test_what_is_said_otherwise_is_refused(options, fake, capsys, said, words):
    settings = options(some_rows(150))
    command = ["embed-corpus", *settings.inputs, "--output", settings.output, "--url", fake.url]
    assert main([*command, "--prompt-name", "query", "--rows-per-part", "100"]) == 0
    fake.models["another"] = "READY"
    assert main([*command, "--resume", *said]) == 2
    assert words in capsys.readouterr().err


def test_resume_of_nothing_begins(options, fake, tmp_path, capsys):
    table = some_rows(5)
    settings = options(table)
    command = ["embed-corpus", *settings.inputs, "--output", settings.output, "--url", fake.url]
    assert main([*command, "--resume"]) == 0
    check_output(tmp_path / "out", table)
    assert capsys.readouterr().out == f"5 rows in 1 part in {settings.output}\n"
    assert main([*command, "--resume"]) == 0
    assert "lasttoken: rows that were there already: 5\n" in capsys.readouterr().err


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


@pytest.mark.parametrize("content", ["[]", "{", "{}"])
def test_an_unreadable_manifest_is_said(options, fake, tmp_path, capsys, content):
    embed_corpus(options(some_rows(5)))
    (tmp_path / "out" / "_lasttoken.json").write_text(content)
    with pytest.raises(
        LasttokenError, match="another run" if content == "{}" else "cannot be read"
    ):
        embed_corpus(options(resume=True))
    settings = options()
    command = ["embed-corpus", *settings.inputs, "--output", settings.output, "--url", fake.url]
    assert main([*command, "--resume"]) == 2
    assert ("not complete" if content == "{}" else "cannot be read") in capsys.readouterr().err
