"""`lasttoken embed` from files into files: formats, resuming, bounded memory."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time

import grpc
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from lasttoken import cli
from lasttoken.files.text_source import TextSource
from lasttoken.progress import Progress
from unit.client.fake_triton import DIMENSIONS, MODEL, delay, refuse, vectors_of

TEXTS = ["plain", "", 'with "quotes", commas', "two\tcolumns", "漢字 \U0001f600", "x" * 5000]


@pytest.fixture
def run(fake, capsys, monkeypatch):
    def run_cli(*arguments: object, stdin: bytes | None = None):
        stream = io.TextIOWrapper(io.BytesIO(stdin or b""))
        stream.isatty = lambda: stdin is None  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stream)
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = leave.code
        out, err = capsys.readouterr()
        return code, out, err

    monkeypatch.setenv("LASTTOKEN_URL", fake.url)
    return run_cli


def write_inputs(folder, texts, column="text"):
    lines = folder / "in.txt"
    lines.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    jsonl = folder / "in.jsonl"
    jsonl.write_text("".join(json.dumps({"id": 1, column: text}) + "\n" for text in texts))
    comma = folder / "in.csv"
    with comma.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", column])
        writer.writerows((i, text) for i, text in enumerate(texts))
    table = folder / "in.parquet"
    parquet.write_table(pa.table({"id": range(len(texts)), column: texts}), table)
    return {path.suffix: path for path in (lines, jsonl, comma, table)}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".parquet"])
def test_every_input_becomes_every_output(run, tmp_path, suffix):
    path = write_inputs(tmp_path, TEXTS)[suffix]
    expected = vectors_of(TEXTS)
    for output in (tmp_path / "o.npy", tmp_path / "o.jsonl", tmp_path / "o.parquet"):
        code, out, err = run("embed", "--input", path, "--output", output)
        assert (code, out) == (0, ""), err
        assert f"wrote (6, 8) float32 to {output}" in err
        assert not output.with_name(output.name + ".part").exists()
    array = np.load(tmp_path / "o.npy")
    assert array.dtype == np.float32
    assert np.array_equal(array, expected)
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert [row["token_count"] for row in rows] == [len(text.encode()) for text in TEXTS]
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), expected)
    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.column("text").to_pylist() == TEXTS
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[8]"
    flat = table.column("embedding").combine_chunks().flatten().to_numpy()
    assert np.array_equal(flat.reshape(-1, DIMENSIONS), expected)
    assert table.schema.metadata[b"lasttoken.triton_model"] == MODEL.encode()


def test_pandas_is_not_loaded_where_it_is_installed(fake, tmp_path):
    paths = write_inputs(tmp_path, TEXTS)
    program = f"""if True:
        import sys
        from lasttoken import cli
        code = cli.main(["embed", "--input", {str(paths[".parquet"])!r}, "--url", {fake.url!r},
                         "--output", {str(tmp_path / "o.parquet")!r}])
        print(code, [name for name in sys.modules if name == "pandas"])
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0 []"


def test_another_column_several_files_and_stdout(run, tmp_path):
    paths = write_inputs(tmp_path, TEXTS, column="body")
    code, out, err = run(
        "embed", "--input", paths[".csv"], "--input", paths[".parquet"], "--column", "body"
    )
    assert (code, err) == (0, "")
    rows = np.array([line.split() for line in out.splitlines()], np.float32)
    assert np.array_equal(rows, vectors_of(TEXTS + TEXTS))


def test_a_table_to_read(run):
    code, out, _ = run("embed", "--table", "short", "a text that is TOO LONG " + "x" * 99)
    assert code == 0
    heading, first, second = out.splitlines()
    assert heading.split() == ["TOKENS", "VECTOR", "TEXT"]
    assert re.match(r" +5   -?0\.\d+ .* \[8\] +short$", first)
    assert re.match(r" +123\+ ", second)
    assert second.endswith("…")


@pytest.mark.parametrize(("dtype", "kind"), [("binary", np.int8), ("float16", np.float16)])
def test_vectors_of_other_types(run, tmp_path, dtype, kind):
    path = write_inputs(tmp_path, TEXTS)[".txt"]
    for name in ("o.npy", "o.parquet", "o.jsonl"):
        output = tmp_path / name
        code, _, err = run("embed", "--input", path, "--output", output, "--output-dtype", dtype)
        assert code == 0, err
    array = np.load(tmp_path / "o.npy")
    assert array.dtype == kind
    column = parquet.read_table(tmp_path / "o.parquet").column("embedding").combine_chunks()
    assert np.array_equal(column.flatten().to_numpy().reshape(array.shape), array)
    ranges = tmp_path / "ranges.npy"
    np.save(ranges, np.array([[-1.0] * 8, [1.0] * 8], np.float32))
    arguments = ("embed", "--input", path, "--output", tmp_path / "i.npy", "--output-dtype", "int8")
    assert run(*arguments)[0] == 2
    assert run(*arguments, "--ranges", ranges)[0] == 0
    assert np.load(tmp_path / "i.npy").dtype == np.int8


def many(count=3000):
    return [f"text {i} " + "x" * (i % 40) for i in range(count)]


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_a_failed_run_goes_on_where_it_ended(run, fake, tmp_path, suffix):
    texts = many()
    path = write_inputs(tmp_path, texts)[".jsonl"]
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"o{suffix}"
    assert run("embed", "--input", path, "--output", whole)[0] == 0
    rows_file = tmp_path / f"o{suffix}.part" / "rows.bin"

    def fail_after_a_while(call, tensors):
        if any(int(text.split()[1]) >= 2000 for text in call.texts):
            deadline = time.monotonic() + 30  # until something is there to go on with
            while time.monotonic() < deadline:
                if rows_file.exists() and rows_file.stat().st_size:
                    break
                time.sleep(0.01)
            call.context.abort(grpc.StatusCode.INTERNAL, "engine failed")

    fake.otherwise = fail_after_a_while
    code, _, err = run("embed", "--input", path, "--output", output)
    assert code == 1
    assert "engine failed" in err
    assert not output.exists()
    code, _, err = run("embed", "--input", path, "--output", output)
    assert code == 2
    assert "--resume" in err
    fake.otherwise = lambda call, tensors: None
    before = len(fake.calls)
    # A torn record at the end, as a killed process may leave it, is dropped.
    with rows_file.open("ab") as rows:
        rows.write(b"half a record")
    code, _, err = run("embed", "--input", path, "--output", output, "--resume")
    assert code == 0, err
    resumed = int(re.search(r", (\d+) of them from before", err)[1])
    assert 0 < resumed < len(texts)
    # As a set: a request of the failed run may still have been on its way.
    sent = {text.decode() for call in fake.calls[before:] for text in call.texts}
    assert sent == set(texts[resumed:])
    assert output.read_bytes() == whole.read_bytes()
    code, _, err = run("embed", "--input", path, "--output", output, "--resume")
    assert code == 0
    assert "is finished" in err


def test_a_run_of_something_else_is_not_gone_on_with(run, fake, tmp_path):
    texts = many()
    path = write_inputs(tmp_path, texts)[".txt"]
    output = tmp_path / "o.npy"
    good = iter([True] * 20)

    def stop(call, tensors):
        if not next(good, False):
            call.context.abort(grpc.StatusCode.INTERNAL, "engine failed")

    fake.otherwise = stop
    arguments = ("embed", "--input", path, "--output", output, "--resume")
    assert run(*arguments)[0] == 1
    fake.otherwise = lambda call, tensors: None
    done = (tmp_path / "o.npy.part" / "rows.bin").stat().st_size
    assert done > 0
    ranges = tmp_path / "ranges.npy"
    np.save(ranges, np.array([[-1.0] * 8, [1.0] * 8], np.float32))
    for more, words in (
        (("--output-dtype", "int8", "--ranges", ranges), "ranges was None and is [[-1.0,"),
        (("--prompt-name", "query"), "prompt_name was None and is 'query'"),
        (("--output-dtype", "float16"), "output_dtype was 'float32'"),
        (("--dimensions", "4", "--force-dimensions"), "dimensions was None and is 4"),
    ):
        code, _, err = run(*arguments, *more)
        assert code == 2
        assert words in err
    fake.models = {"other_model": "READY"}
    code, _, err = run(*arguments)
    assert code == 2
    assert f"model was '{MODEL}' and is 'other_model'" in err
    fake.models = {MODEL: "READY"}
    fake.card = json.dumps({"revision": "another"})
    assert run(*arguments)[0] == 2
    fake.card = None
    path.write_text(path.read_text().replace("text 7 ", "text seven "))
    code, _, err = run(*arguments)
    assert code == 2
    assert "text 7 differs" in err
    path.write_text("text 0 \n")
    assert "text 1 differs" in run(*arguments)[2]
    assert (tmp_path / "o.npy.part" / "rows.bin").stat().st_size == done


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        (("--output-dtype", "int8"), 2, "without ranges"),
        (("--dimensions", "4"), 2, "was not trained for shorter"),
        (("--dimensions", "0"), 2, "above 0"),
        (("--prompt-name", "refused"), 2, "unknown prompt"),
        (("--prompt-name", "q", "--instruction", "i"), 2, "both"),
        (("--model", "nosuch"), 2, "nosuch"),
        (("--prompt-name", "fails"), 1, "engine failed"),
    ],
)
@pytest.mark.parametrize("given", ["arguments", "stdin", "file"])
def test_a_run_that_fails_before_its_first_row_leaves_nothing(
    run, fake, tmp_path, wrong, code, words, given
):
    def answer_or_not(call, tensors):
        if b"refused" in call.inputs.get("PROMPT_NAME", ()):
            call.context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown prompt")
        if b"fails" in call.inputs.get("PROMPT_NAME", ()):
            call.context.abort(grpc.StatusCode.INTERNAL, "engine failed")

    fake.otherwise = answer_or_not
    (tmp_path / "in.txt").write_text("x\ny\n")
    texts = {"arguments": ("x", "y"), "stdin": (), "file": ("--input", tmp_path / "in.txt")}[given]
    command = ("embed", "--output", tmp_path / "a.npy", *texts)
    stdin = b"x\ny\n" if given == "stdin" else None
    failed, _, err = run(*command, *wrong, stdin=stdin)
    assert failed == code
    assert words in err
    assert not (tmp_path / "a.npy.part").exists()
    assert run(*command, stdin=stdin)[0] == 0  # the corrected command
    assert np.array_equal(np.load(tmp_path / "a.npy"), vectors_of(["x", "y"]))


def test_a_folder_that_was_there_before_stays(run, tmp_path):
    part = tmp_path / "a.npy.part"
    part.mkdir()
    (part / "stdin.txt").write_text("of another run\n")
    assert run("embed", "--output", tmp_path / "a.npy", "--dimensions", "4", "x")[0] == 2
    assert part.is_dir()


def test_stdin_that_is_no_text_leaves_nothing(run, tmp_path):
    code, _, err = run("embed", "--output", tmp_path / "a.npy", stdin=b"fine\n\xff\n")
    assert code == 2
    assert "line 2 of stdin" in err
    assert not list(tmp_path.iterdir())


def test_stdin_into_a_file(run, tmp_path):
    output = tmp_path / "o.parquet"
    code, _, err = run("embed", "--output", output, stdin="a\n\nlast é".encode())
    assert code == 0, err
    assert parquet.read_table(output).column("text").to_pylist() == ["a", "", "last é"]


def embed_process(fake, output, *arguments, **streams):
    command = [sys.executable, "-m", "lasttoken.cli", "embed", "--url", fake.url]
    command += ["--output", str(output), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **streams)


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_stopped_run_leaves_what_resume_goes_on_with(run, fake, tmp_path, number, code):
    texts = many(1000)  # fewer than a block of the client's own
    path = write_inputs(tmp_path, texts)[".txt"]
    output = tmp_path / "o.npy"
    few_are_answered = iter([True] * 4)
    answered = delay(0.05)
    fake.otherwise = lambda call, tensors: (
        answered if next(few_are_answered, False) else delay(60)
    )(call, tensors)
    rows = tmp_path / "o.npy.part" / "rows.bin"
    with embed_process(fake, output, "--input", path) as process:
        assert fake.wait_until(lambda f: rows.exists() and rows.stat().st_size, seconds=60)
        process.send_signal(number)
        assert process.wait(60) == code
        said = process.stderr.read()
    assert fake.wait_until(lambda f: f.in_flight == 0)  # the server was told
    assert not output.exists()
    match = re.fullmatch(
        r"lasttoken: interrupted: (\d+) of 1000 texts are done, in (.*); --resume goes on .*\n",
        said,
    )
    assert match, said
    assert 0 < int(match[1]) < 1000
    assert match[2] == str(rows.parent)
    fake.otherwise = lambda call, tensors: None
    before = len(fake.calls)
    code, _, err = run("embed", "--input", path, "--output", output, "--resume")
    assert code == 0
    assert f"{match[1]} of them from before" in err
    sent = [text.decode() for call in fake.calls[before:] for text in call.texts]
    assert sorted(sent) == sorted(texts[int(match[1]) :])
    assert np.array_equal(np.load(output), vectors_of(texts))


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("given", ["stdin", "file"])
def test_a_run_stopped_before_its_first_row_leaves_nothing_and_says_so(
    run, fake, tmp_path, given, number, code
):
    texts = many(100)
    path = write_inputs(tmp_path, texts)[".txt"]
    output = tmp_path / "o.npy"
    arguments = () if given == "stdin" else ("--input", path)
    fake.otherwise = delay(60)
    with path.open("rb") as lines, embed_process(fake, output, *arguments, stdin=lines) as process:
        assert fake.wait_until(lambda f: f.in_flight, seconds=60)
        assert (tmp_path / "o.npy.part").exists()
        process.send_signal(number)
        assert process.wait(60) == code
        said = process.stderr.read()
    assert said == "lasttoken: interrupted: no text is done, and nothing is left behind\n"
    assert not (tmp_path / "o.npy.part").exists()
    fake.otherwise = lambda call, tensors: None
    stdin = path.read_bytes() if given == "stdin" else None
    assert run("embed", "--output", output, *arguments, stdin=stdin)[0] == 0  # without --resume
    assert np.array_equal(np.load(output), vectors_of(texts))


def test_what_a_kill_leaves_before_the_first_row_stands_in_no_ones_way(run, fake, tmp_path):
    path = write_inputs(tmp_path, TEXTS)[".txt"]
    output = tmp_path / "o.npy"
    fake.otherwise = delay(60)
    with embed_process(fake, output, "--input", path) as process:
        assert fake.wait_until(lambda f: f.in_flight, seconds=60)
        process.kill()
    assert (tmp_path / "o.npy.part" / "state.json").exists()
    fake.otherwise = lambda call, tensors: None
    assert run("embed", "--input", path, "--output", output, "--prompt-name", "q")[0] == 0
    assert not (tmp_path / "o.npy.part").exists()


def test_rows_of_which_nothing_says_what_they_are_are_no_run_to_go_on_with(run, tmp_path):
    part = tmp_path / "a.npy.part"
    part.mkdir()
    (part / "rows.bin").write_bytes(b"rows")
    (part / "state.json").write_text('{"dtype": "<f4", "wid')
    for more in ((), ("--resume",)):
        code, _, err = run("embed", "--output", tmp_path / "a.npy", "x", *more)
        assert code == 2
        assert "state.json cannot be read" in err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.doc", b"x", "ends in none of"),
        ("a.txt", b"fine\n\xff\n", "line 2 of"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', "holds 5 and no text"),
        ("a.jsonl", b'{"text": "a"}\nnonsense\n', "line 2 of .* is not JSON"),
        ("a.jsonl", b'{"body": "a"}\n', "no column 'text'; name one with --column: body"),
        ("a.csv", b"id,body\n1,a\n", "no column 'text'; name one with --column: id, body"),
        ("a.csv", b"id,text\n1\n", "line 2 of .* holds None"),
        ("a.parquet", b"nonsense", "is not Parquet"),
    ],
)
def test_wrong_inputs_are_wrong_usage_with_the_place(run, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    code, _, err = run("embed", "--input", path, "--output", tmp_path / "o.npy")
    assert code == 2
    assert re.search(words, err), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--input", "missing.txt"), "is not a file"),
        (("--input", "x.txt", "a text"), "give one of them"),
        (("a", "--resume"), "--output"),
        (("a", "--output", "nowhere/o.npy"), "no folder"),
        (("a", "--table", "--json"), "give one"),
        (("a", "--header", "novalue"), "NAME=VALUE"),
        (("a", "--tls-ca", "missing.pem"), "root_certificates cannot be read"),
        (("a", "--ranges", "missing.npy"), "cannot be read"),
        (("a", "--dimensions", "4"), "was not trained for shorter"),
        (("a", "--dimensions", "4"), "--force-dimensions"),
    ],
)
def test_wrong_usage(run, arguments, words):
    code, out, err = run("embed", *arguments)
    assert (code, out) == (2, "")
    assert words in err


def test_without_pyarrow_parquet_says_what_to_install(run, tmp_path, monkeypatch):
    path = write_inputs(tmp_path, TEXTS)[".txt"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("embed", "--input", path, "--output", tmp_path / "o.parquet")
    assert code == 1
    assert "pip install 'lasttoken[parquet]'" in err


def test_headers_and_the_token_go_along(run, fake, monkeypatch):
    monkeypatch.setenv("LASTTOKEN_TOKEN", "s3cret")
    assert run("embed", "--header", "x-team=search", "a")[0] == 0
    assert fake.calls[0].metadata["authorization"] == "Bearer s3cret"
    assert fake.calls[0].metadata["x-team"] == "search"


def test_exit_codes_stand_in_the_help(run):
    _, out, _ = run("embed", "--help")
    for words in ("0 done", "1 failed", "2 wrong usage", "130 interrupted", "143 with SIGTERM"):
        assert words in out


def test_a_refusal_is_tried_again_into_a_file(run, fake, tmp_path):
    fake.first.extend([refuse(grpc.StatusCode.UNAVAILABLE, "overloaded: full")] * 8)
    assert run("embed", "a", "--output", tmp_path / "o.npy")[0] == 0


def test_sources_are_streams(tmp_path):
    paths = write_inputs(tmp_path, many(5000))
    for path in paths.values():
        source = TextSource(paths=(path,))
        assert source.count() == 5000
        assert next(source.texts()) == "text 0 "


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar_tells_share_rate_and_time_left():
    now = [0.0]
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        now[0] = 0.0
        progress = Progress(400, done=100, stream=stream, clock=lambda: now[0])
        now[0] = 10.0
        progress.advance(100)
        progress.close()
    assert " 50% |############            | 200/400 texts, 10/s, 0:20 left" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
    assert pipe.getvalue() == ""
    unknown = Progress(None, stream=Terminal(), clock=lambda: now[0])
    assert unknown.line(now[0] + 75.0) == "0 texts, 0/s, 1:15"
