"""A file that cannot be written is found before the work, and costs no result behind it."""

import json
import re
from pathlib import Path

import pytest

from lasttoken_perf import cli, commands, output_file
from lasttoken_perf.command import Command
from lasttoken_perf.errors import OutputUnwritable
from lasttoken_perf.output_file import check_output, write_output


@pytest.fixture
def worked(monkeypatch):
    """A command `x` that says whether it ran."""
    calls = []
    command = Command(
        add_arguments=lambda parser: None, run=lambda options: calls.append(1) or {"value": 1}
    )
    monkeypatch.setattr(commands, "SUMMARIES", {"x": "x"})
    monkeypatch.setattr(cli, "load_command", lambda name: command)
    return calls


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("file/x.json", "Not a directory"),
        ("folder", "a folder; name a file"),
        ("", "a folder; name a file"),
        ("/proc/x.json", "cannot be written"),
        ("n" * 300 + ".json", "File name too long"),
    ],
)
def test_it_is_found_before_the_work(worked, output, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    assert cli.main(["x", "--output", output]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --output is {str(Path(output))!r}, ")
    assert said in line
    assert not worked
    assert (tmp_path / "file").read_text() == "kept"


def test_looking_makes_and_changes_nothing(tmp_path):
    there = tmp_path / "there.json"
    there.write_text("kept")
    check_output("--output", there)
    check_output("--output", tmp_path / "new" / "folders" / "x.json")
    check_output("--output", Path("/dev/null"))
    assert there.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [there]


def test_a_result_that_cannot_be_written_after_all_is_kept(worked, tmp_path, monkeypatch, capsys):
    output = tmp_path / "x.json"
    monkeypatch.setattr(cli, "check_output", lambda option, file: output.mkdir())
    monkeypatch.setattr(output_file.tempfile, "tempdir", str(tmp_path))
    assert cli.main(["x", "--output", str(output)]) == 1
    assert worked
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {str(output)!r} cannot be written (Is a directory); ")
    kept = Path(re.search(r"is in (\S+\.json)$", line)[1])
    assert json.loads(kept.read_text()) == {"value": 1}


def test_without_a_temporary_file_it_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(output_file.tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputUnwritable, match="on stdout"):
        write_output(tmp_path, "the result\n")
    assert capsys.readouterr().out == "the result\n"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("report --html {folder} {folder}/missing.json", "--html"),
        ("precisions --table {folder}", "--table"),
        ("faults --table {folder}", "--table"),
    ],
)
def test_pages_and_tables_are_looked_at_too(words, option, tmp_path, capsys):
    assert cli.main(words.format(folder=tmp_path).split()) == 1
    assert f"error: {option} is {str(tmp_path)!r}, a folder" in capsys.readouterr().err
