"""Arguments that cannot be are refused before anything is exported, served or written."""

import pytest

from lasttoken_perf.cli import main


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("bench --texts 0", "'0' is no whole number of 1 or more"),
        ("bench --repeats -1", "'-1' is no whole number"),
        ("bench --clients many", "'many' is no whole number"),
        ("latency --requests 0", "--requests"),
        ("latency --concurrency 1 0", "--concurrency"),
        ("sweep --request-rate nan", "'nan' is no number above 0"),
        ("overload --seconds 0", "'0' is no number above 0"),
        ("overload --factor inf", "'inf' is no number above 0"),
        ("quality --pairs 1", "'1' is no whole number of 2 or more"),
        ("export --layers 0", "--layers"),
        ("soak --minutes -3", "--minutes"),
        ("latency --seed -5", "'-5' is no whole number of 0 or more"),
        ("gpu --seed -5", "'-5' is no whole number of 0 or more"),
        ("sweep --stability nan", "'nan' is no number of 0 or more"),
        ("sweep --stability -1", "'-1' is no number of 0 or more"),
        ("sweep --stability inf", "'inf' is no number of 0 or more"),
    ],
)
def test_numbers(words, refused, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert refused in capsys.readouterr().err


def test_a_server_without_metrics_is_no_subject_of_overload(capsys):
    assert main(["overload", "--url", "127.0.0.1:1"]) == 2
    assert "give it, such as http://HOST:8002/metrics" in capsys.readouterr().err


def test_an_export_finds_its_folder_and_its_layers_first(tmp_path, capsys):
    assert main(["export", "--layers", "33", "--folder", str(tmp_path / "x")]) == 2
    assert "--layers is 33; the model has 32" in capsys.readouterr().err
    assert main(["export", "--layers", "1", "--folder", str(tmp_path)]) == 1
    assert f"{tmp_path} is there" in capsys.readouterr().err
    assert tmp_path.is_dir()


def test_a_report_of_nothing_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 1
    assert "there is no result in docs/measurements" in capsys.readouterr().err
    assert main(["report", "--readme", "missing.md", "bench.json"]) == 1
    assert "missing.md cannot be read" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
