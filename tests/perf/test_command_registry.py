"""Every module of `commands` is a subcommand, and only the command line catches errors."""

import json
import pkgutil
import subprocess
import sys

import pytest

from lasttoken_perf import cli, commands
from lasttoken_perf.command import Command
from lasttoken_perf.errors import WrongAnswer


def test_every_module_is_a_command_with_its_help(capsys):
    modules = {module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)}
    assert set(commands.SUMMARIES) == modules
    for name, summary in commands.SUMMARIES.items():
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert summary.split()[0] in capsys.readouterr().out


@pytest.fixture
def only_command(monkeypatch):
    def install(run):
        command = Command(add_arguments=lambda parser: None, run=run)
        monkeypatch.setattr(commands, "SUMMARIES", {"x": "x"})
        monkeypatch.setattr(cli, "load_command", lambda name: command)

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


@pytest.mark.parametrize("command", ["bench", "latency", "peers", "quality", "precisions", "soak",
                                     "modelopt", "faults", "plan"])  # fmt: skip
def test_a_model_that_nobody_knows_is_bad_usage(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, "--model", "nonesuch"]) == 2
    assert "error: 'nonesuch' is n" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_names_of_faults_are_not_all_of_them(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["faults", "--only"])
    assert ended.value.code == 2
    assert "expected at least one argument" in capsys.readouterr().err


def loaded_modules(words):
    """What a command line's words print, and the modules that are loaded by then."""
    program = f"import sys; from lasttoken_perf import cli\ntry: cli.main({words})\n"
    program += "except SystemExit: print('loaded', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    printed, _, loaded = done.stdout.rpartition("loaded ")
    return printed + done.stderr, set(loaded.split())


def test_a_command_does_not_wait_for_what_others_import():
    printed, loaded = loaded_modules(["plan", "--help"])
    assert "--efficiency" in printed
    assert "lasttoken_perf.commands.plan" in loaded
    assert not {"onnx_ir", "onnxruntime", "lasttoken_perf.commands.bench"} & loaded


@pytest.mark.parametrize("words", [["--help"], ["no-such-command"], []])
def test_the_list_of_commands_imports_none(words):
    printed, loaded = loaded_modules(words)
    assert "gateway-overhead" in printed or not words
    assert not [name for name in loaded if name.startswith("lasttoken_perf.commands.")]
