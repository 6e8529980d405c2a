"""What was measured before a signal or an error is in ``--output`` all the same."""

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken_perf import bench, cli, plan_sizes
from lasttoken_perf.commands import precisions, quality
from lasttoken_perf.errors import PeerFailed, WrongAnswer
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.kept_rows import rows_kept
from lasttoken_perf.results import read_result


def test_a_signal_and_a_typed_error_keep_what_was_finished(tmp_path, capsys):
    output = tmp_path / "new/result.json"
    ends = []

    def finished(ended_by):
        ends.append(ended_by)
        return {"rows": [1]}

    with pytest.raises(Interrupted) as interrupted, rows_kept(output, finished):
        raise Interrupted(signal.SIGTERM)
    assert interrupted.value.kept == f"; what was finished before it is in {output}"
    assert json.loads(output.read_text()) == {"rows": [1]}
    output.unlink()
    with pytest.raises(WrongAnswer), rows_kept(output, finished):
        raise WrongAnswer("norm")
    assert output.is_file()
    assert f"what was finished before it is in {output}" in capsys.readouterr().err
    output.unlink()
    with pytest.raises(KeyError), rows_kept(output, finished):
        raise KeyError("an answer without what it should have")
    assert output.is_file()
    assert ends == ["SIGTERM", "WrongAnswer", "KeyError"]


def test_nothing_is_written_where_nothing_was_finished_or_no_file_is_named(tmp_path):
    output = tmp_path / "result.json"
    with pytest.raises(Interrupted) as interrupted, rows_kept(output, lambda ended_by: None):
        raise Interrupted(signal.SIGINT)
    assert interrupted.value.kept == ""
    assert not output.exists()
    with pytest.raises(Interrupted) as interrupted, rows_kept(None, lambda ended_by: {}):
        raise Interrupted(signal.SIGINT)
    assert interrupted.value.kept == ""


def test_a_file_that_cannot_be_written_does_not_hide_the_signal(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(Interrupted) as interrupted,
        rows_kept(tmp_path / "file/result.json", lambda ended_by: {"rows": []}),
    ):
        raise Interrupted(signal.SIGINT)
    assert "cannot be written" in interrupted.value.kept
    assert "what was to be in it is in" in interrupted.value.kept


def pairs():
    return SimpleNamespace(
        name="debian", source="Debian", sha256="0" * 64, queries=("a", "b"), documents=("a", "b")
    )


def test_precisions_keep_their_rows(tmp_path, monkeypatch, capsys):
    def rows(entry, texts, earlier, options, cache):
        yield {"subject": "bare engine", "precision": "fp32", "repeat": 1, "tokens_per_s": 10.0}
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(precisions, "open_set", lambda *names, **options: pairs())
    monkeypatch.setattr(precisions, "_rows_of_model", rows)
    output = tmp_path / "result.json"
    assert cli.main(["precisions", "--model", "smollm2-135m", "--output", str(output)]) == 130
    assert f"interrupted by SIGINT; what was finished before it is in {output}" in (
        capsys.readouterr().err
    )
    result = read_result(output)
    assert result["interrupted"] == "SIGINT after 1 rows"
    assert result["rows"][0]["model"] == "smollm2-135m"


def test_a_model_that_cannot_be_exported_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def export(checkpoint, entry, folder, *, say):
        return [SimpleNamespace(precision="fp32", artefact=None, reason="no room")]

    monkeypatch.setattr(precisions, "open_set", lambda *names, **options: pairs())
    monkeypatch.setattr(precisions, "open_checkpoint", lambda *names, **options: None)
    monkeypatch.setattr(precisions, "export_precisions", export)
    asked = ["precisions", "--model", "all-minilm-l6-v2", "--folder", str(tmp_path)]
    assert cli.main(asked) == 1
    said = capsys.readouterr().err
    assert "all-minilm-l6-v2 can be exported in no precision: no room" in said


@pytest.mark.parametrize("command", ["precisions", "quality"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    command, tmp_path, monkeypatch, capsys
):
    for module in (precisions, quality):
        monkeypatch.setattr(module, "open_set", lambda *names, **options: pytest.fail("opened"))
    (tmp_path / "file").touch()
    assert cli.main([command, "--folder", str(tmp_path / "file/x")]) == 1
    assert "--folder is " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


class Server:
    """In place of a Triton."""

    grpc_url = "nowhere:1"
    metrics_url = None

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_quality_keeps_the_precisions_that_are_done(tmp_path, monkeypatch, capsys):
    vectors = np.eye(2, 8, dtype=np.float32)

    def embed(url, name, task, **options):
        if name == "m_int8":
            raise PeerFailed("the server is gone")
        return vectors, vectors

    def export(checkpoint, entry, folder, *, only, say):
        card = {"prompts": {}}
        return [
            SimpleNamespace(precision=p, reason="", artefact=SimpleNamespace(
                name=f"m_{p}", card=card, repository=folder))
            for p in only
        ]  # fmt: skip

    texts = tmp_path / "pairs.jsonl"
    texts.write_text('{"query": "a", "document": "A"}\n{"query": "b", "document": "B"}\n')
    monkeypatch.setattr(quality, "open_checkpoint", lambda *names, **options: None)
    monkeypatch.setattr(quality, "export_precisions", export)
    monkeypatch.setattr(quality, "LocalTriton", Server)
    monkeypatch.setattr(quality, "embed_task", embed)
    output = tmp_path / "result.json"
    asked = ["quality", "--set", str(texts), "--precision", "int8", "--output", str(output),
             "--folder", str(tmp_path / "exports")]  # fmt: skip
    assert cli.main(asked) == 1
    said = capsys.readouterr().err
    assert "error: the server is gone" in said
    assert f"what was finished before it is in {output}" in said
    result = read_result(output)
    assert [row["precision"] for row in result["rows"]] == ["fp32"]
    assert result["interrupted"] == "PeerFailed after fp32"
    assert len(result["workload"]["sha256"]) == 64
    assert result["checks"]


def test_an_unknown_precision_is_refused_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(quality, "open_checkpoint", lambda *names, **options: pytest.fail("opened"))
    assert cli.main(["quality", "--precision", "int9"]) == 2
    said = capsys.readouterr().err
    assert "--precision is 'int9', which cannot be served on onnxruntime" in said
    assert "choose of fp32, fp16, int8, int8-weights, int4" in said
    assert cli.main(["quality", "--precision", "fp8"]) == 2


def test_plans_keep_their_rows_and_leave_out_what_the_gpu_cannot_run(tmp_path, monkeypatch, capsys):
    checkpoint = SimpleNamespace(config=SimpleNamespace(num_layers=30))

    def measure(subject, checkpoint, build):
        if build.precision == "int8":
            raise Interrupted(signal.SIGTERM)
        return {"subject": subject, "precision": build.precision, "layers": 30, "seconds": 1.0,
                "weight_bytes": 1, "plan_bytes": 1, "rss_bytes": 1}  # fmt: skip

    monkeypatch.setattr(plan_sizes, "_checkpoints", lambda *names: [("smollm2-135m", checkpoint)])
    monkeypatch.setattr(plan_sizes, "_measure", measure)
    output = tmp_path / "plans.json"
    asked = ["plans", "--compute-capability", "7.5", "--output", str(output), "--precisions"]
    assert cli.main([*asked, "fp16", "fp8"]) == 0
    written = capsys.readouterr()
    assert "| smollm2-135m | 30 | fp16 |" in written.out
    assert "- fp8 is not in the table: fp8 needs a GPU of compute capability 8.9" in written.out
    assert cli.main([*asked, "fp16", "int8"]) == 143
    assert read_result(output)["interrupted"] == "SIGTERM after 1 rows"
    assert cli.main([*asked, "fp8", "int4"]) == 1
    assert "fp8 needs a GPU of compute capability 8.9" in capsys.readouterr().err


class Process:
    """In place of a peer's process."""

    def __init__(self, module, settings, folder, **options):
        self.pid, self.version = None, ""

    __enter__, __exit__ = Server.__enter__, Server.__exit__

    def corpus(self):
        return bench.PeerRun(seconds=0.5, vectors=np.eye(3, 576, dtype=np.float32))


@pytest.fixture
def small_bench(monkeypatch):
    """The bench without weights and servers; returns the cache folders that Triton was given."""
    caches = []

    def triton(repository, *, cache_folder=None):
        caches.append(cache_folder)
        return Server()

    def served(url, name, texts, clients=None):
        return Process("", {}, None).corpus()

    parameters = {name: SimpleNamespace(string_value="2")
                  for name in ("preferred_batch_tokens", "intra_op_threads")}  # fmt: skip
    replaced = {
        "open_checkpoint": lambda source, cache_folder: SimpleNamespace(
            config=SimpleNamespace(hidden_size=576)
        ),
        "export_model": lambda *arguments: SimpleNamespace(triton_name="m"),
        "tokenize": lambda folder, texts: ([[1, 2, 3]] * 3, texts),
        "parse_config": lambda text: SimpleNamespace(parameters=parameters),
        "PeerProcess": Process,
        "LocalTriton": triton,
        "embed_one_by_one": served,
        "embed_list": served,
        "read_metrics": lambda url: {"lasttoken_tokens_total": 9.0},
    }
    for name, value in replaced.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench.Path, "read_text", lambda path, **options: "")
    return caches


def test_the_bench_is_a_result_like_any_other(small_bench, tmp_path, monkeypatch):
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))
    options = bench.BenchOptions(texts=3, repeats=2, with_peers=False, cache_folder=tmp_path)
    result = bench.run_bench(options, say=lambda words: None)
    assert small_bench == [tmp_path]  # Triton is kept where the weights are
    assert result["schema"] == 1
    assert result["revision"] is not None
    assert result["workload"]["tokens"] == 9
    assert len(result["rows"]) == 6
    assert result["summary"][0]["tokens_per_s"]["median"] == 18
    assert result["tokens_per_s"][bench.SERVED]["median"] == 18


def test_an_interrupted_bench_has_the_ratios_of_its_finished_repeats(small_bench, tmp_path):
    left = iter(range(5))  # agreement, then one repeat and the first of the second

    def served(url, name, texts, clients=None):
        if next(left, None) is None:
            raise Interrupted(signal.SIGINT)
        return Process("", {}, None).corpus()

    bench.embed_one_by_one = bench.embed_list = served
    options = bench.BenchOptions(texts=3, repeats=2, with_peers=False)
    output = tmp_path / "bench.json"
    with pytest.raises(Interrupted):
        bench.run_bench(options, say=lambda words: None, output=output)
    result = json.loads(bench.Path.open(output).read())
    assert result["interrupted"] == "SIGINT after 5 rows"
    assert result["ratios"][f"{bench.SERVED_LIST} / {bench.BARE}"]["median"] == 1


def test_the_bench_says_what_to_do_without_sentence_transformers(monkeypatch, capsys):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["bench"]) == 1
    assert "--no-peers" in capsys.readouterr().err
