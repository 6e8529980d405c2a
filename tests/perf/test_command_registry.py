"""Every module of `commands` is a subcommand, and only the command line catches errors."""

import json
import subprocess
import sys

import pytest

from lasttoken_perf import cli
from lasttoken_perf.command import Command
from lasttoken_perf.errors import WrongAnswer


def test_every_command_has_its_help(capsys):
    commands = cli.commands_for(None)
    names = [command.name for command in commands]
    assert {"bench", "export", "soak"} <= set(names)
    assert len(set(names)) == len(names)
    for command in commands:
        assert cli.commands_for(command.name) == [command]
        with pytest.raises(SystemExit) as ended:
            cli.main([command.name, "--help"])
        assert ended.value.code == 0
        assert command.summary.split()[0] in capsys.readouterr().out


@pytest.fixture
def only_command(monkeypatch):
    def install(run):
        command = Command(name="x", summary="x", add_arguments=lambda parser: None, run=run)
        monkeypatch.setattr(cli, "commands_for", lambda word: [command])

    return install


def test_the_result_is_written(only_command, tmp_path):
    only_command(lambda options: {"value": 1})
    output = tmp_path / "new" / "result.json"
    assert cli.main(["x", "--output", str(output)]) == 0
    assert json.loads(output.read_text()) == {"value": 1}


def test_an_error_is_one_line_and_writes_nothing(only_command, tmp_path, capsys):
    def fail(options):
        raise WrongAnswer("a vector's norm is off")

    only_command(fail)
    assert cli.main(["x", "--output", str(tmp_path / "result.json")]) == 1
    assert capsys.readouterr().err == "error: a vector's norm is off\n"
    assert not list(tmp_path.iterdir())


def test_bad_usage_ends_with_2():
    with pytest.raises(SystemExit) as ended:
        cli.main(["no-such-command"])
    assert ended.value.code == 2


def test_a_command_does_not_wait_for_what_others_import():
    program = "import sys; from lasttoken_perf import cli\n"
    program += "try: cli.main(['plan', '--help'])\n"
    program += "except SystemExit: print('loaded', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "--efficiency" in done.stdout
    loaded = done.stdout.rpartition("loaded ")[2].split()
    assert "lasttoken_perf.commands.plan" in loaded
    assert not {"onnx_ir", "onnxruntime", "lasttoken_perf.commands.bench"} & set(loaded)
