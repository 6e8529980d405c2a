"""``lasttoken-perf export``: its options, its bar, and one small run of it."""

import json

import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_perf import export_bench, machine, random_model
from lasttoken_perf.cli import main
from lasttoken_perf.commands import export as export_command
from lasttoken_perf.errors import FolderInUse, NotEnoughRoom
from lasttoken_perf.export_bench import run_export_bench
from lasttoken_perf.random_checkpoint import SFR_CONFIG
from lasttoken_perf.results import check_result


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"precision": "fp16", "layers": None, "quality_pairs": 128}),
        (
            ["--precision", "int8", "--layers", "2", "--quality-pairs", "0"],
            {"precision": "int8", "layers": 2, "quality_pairs": 0},
        ),
    ],
)
@pytest.mark.parametrize(("bar", "code"), [(None, 0), (100, 0), (99, 1)])
def test_options_reach_the_bench_and_its_bar_decides(
    monkeypatch, tmp_path, capsys, words, expected, bar, code
):
    asked = {}

    def run(folder, **options):
        asked.update(options, folder=folder)
        return {"peak_memory_bytes": 100, "peak_memory_bar_bytes": bar}

    monkeypatch.setattr(export_command, "run_export_bench", run)
    assert main(["export", *words, "--folder", str(tmp_path)]) == code
    assert asked.items() >= {**expected, "folder": tmp_path}.items()
    assert json.loads(capsys.readouterr().out)["peak_memory_bytes"] == 100


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_a_precision_of_gpus_is_refused_before_a_checkpoint_is_written(precision, tmp_path, capsys):
    with pytest.raises(InvalidOption, match="onnxruntime cannot run"):
        run_export_bench(tmp_path / "x", precision=precision, cache_folder=None, say=pytest.fail)
    with pytest.raises(SystemExit) as ended:
        main(["export", "--precision", precision])
    assert ended.value.code == 2
    assert f"invalid choice: '{precision}'" in capsys.readouterr().err


def test_too_small_a_disk_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(export_bench, "_BYTES_NEEDED", 10**18)
    with pytest.raises(NotEnoughRoom, match="--folder"):
        run_export_bench(tmp_path / "x", cache_folder=None, say=lambda _: None)
    assert not (tmp_path / "x").exists()


def test_a_folder_in_use_is_told_first(monkeypatch, tmp_path):
    """Its files may be what fills the disk."""
    monkeypatch.setattr(export_bench, "_BYTES_NEEDED", 10**18)
    with pytest.raises(FolderInUse, match="another run works in it"):
        run_export_bench(tmp_path, cache_folder=None, say=lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "bar"), [("fp16", 3_000_000_000), ("int4", None)])
def test_a_small_checkpoint_of_the_shape_is_exported_and_removed(
    monkeypatch, tmp_path, precision, bar
):
    small = {
        **SFR_CONFIG, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    monkeypatch.setattr(random_model, "SFR_CONFIG", small)
    monkeypatch.setattr(export_bench, "_BYTES_NEEDED", 10**8)
    result = run_export_bench(
        tmp_path / "x",
        precision=precision,
        layers=1,
        quality_pairs=20,
        cache_folder=None,
        say=lambda _: None,
    )
    layer = 64 * (64 + 2 * 32 + 64) + 3 * 64 * 128 + 2 * 64
    assert result["parameters"] == 32000 * 64 + layer + 64
    assert (result["layers"], result["peak_memory_bar_bytes"]) == (1, bar)
    assert result["report"]["quality"]["status"] == "measured"
    assert result["report"]["quality"]["set"]["pairs"] == result["quality_pairs"] == 20
    assert result["bytes_written"] > result["report"]["weight_bytes"]
    check_result(result)
    assert result["kind"] == "export"
    assert 10**7 < result["peak_memory_bytes"] < 3 * 10**9
    assert not (tmp_path / "x").exists()


def test_the_revision_is_that_at_the_commands_beginning(monkeypatch, tmp_path):
    answers = {"rev-parse": "before", "status": ""}
    monkeypatch.setattr(machine, "_git", lambda _, what, *__: answers[what])
    machine.git_revision.cache_clear()

    def run(folder, **options):
        answers["rev-parse"] = "meanwhile"
        return {"peak_memory_bytes": 1, "peak_memory_bar_bytes": None, **machine.git_revision()}

    monkeypatch.setattr(export_command, "run_export_bench", run)
    try:
        assert main(["export", "--output", str(tmp_path / "r.json")]) == 0
        assert json.loads((tmp_path / "r.json").read_text())["commit"] == "before"
    finally:
        machine.git_revision.cache_clear()
