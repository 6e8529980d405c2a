"""The command line answers about itself before it imports what builds graphs."""

import subprocess
import sys

import pytest

from lasttoken_export import cli
from lasttoken_export.commands import export as export_command

HEAVY = {"numpy", "onnx_ir", "onnxruntime", "gguf", "scipy", "tokenizers", "huggingface_hub"}


def ended_by(words):
    """Exit code, output and modules loaded of a command that only its arguments end."""
    program = (
        "import sys\nfrom lasttoken_export import cli\n"
        "try: code = cli.main(sys.argv[1:])\n"
        "except SystemExit as ended: code = ended.code\n"
        "print('loaded', code, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    printed, _, loaded = done.stdout.rpartition("loaded ")
    code, *modules = loaded.split()
    return int(code), printed + done.stderr, set(modules)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "--quality-pairs"),
        (["--version"], 0, "."),
        (["verify", "--help"], 0, "--accept-quality"),
        (["smollm2-135m"], 2, "required: --output"),
        (["smollm2-135m", "--output", "x", "--precision", "fp3"], 2, "invalid choice: 'fp3'"),
        (["verify", "x", "--pairs", "many"], 2, "invalid int value: 'many'"),
        (["smollm2-135m", "--output", "x", "--threads", "-1"], 2, "choose 0 or more"),
        (["smollm2-135m", "--output", "x", "--accept-quality", "speed"], 2, "names 'speed'"),
        (["smollm2-135m", "--output", "x", "--precision", "int8", "--accept-quality",
          "mean_cosine=inf"], 2, "'inf' is no number"),
        (["smollm2-135m", "--output", "x", "--calibration-seed", "3"], 2, "and fp32 is none"),
        (["smollm2-135m", "--output", "x", "--precision", "int8", "--calibration-seed", "-1"], 2,
         "choose 0 or more"),
        (["smollm2-135m", "--output", "x", "--quality-pairs", "1"], 2, "too few to rank"),
        (["smollm2-135m", "--output", "x", "--precision", "bf16"], 2, "bf16"),
    ],
)  # fmt: skip
def test_arguments_do_not_wait_for_imports(words, code, said):
    ended, output, modules = ended_by(words)
    assert (ended, said in output) == (code, True), output
    assert "lasttoken_export.cli" in modules
    assert not HEAVY & modules


def test_an_unknown_model_does_not_wait_for_what_builds_graphs():
    code, output, modules = ended_by(["no-such-model", "--output", "x"])
    assert (code, "'no-such-model' is no catalogue name" in output) == (1, True), output
    assert not {"onnx_ir", "onnxruntime", "gguf", "scipy"} & modules


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--runtime", "tensorrt"], 1, "MissingLibrary"),
        (["--precision", "int8", "--calibration-texts", "no-such-file"], 2, "cannot be read"),
        (["--precision", "fp16", "--quality-set", "no-such-set"], 2, "nor a file of pairs"),
    ],
)
def test_what_needs_no_weights_is_refused_before_they_are_downloaded(
    words, code, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # as where it is not installed
    monkeypatch.setattr(export_command, "open_model", lambda *_, **__: pytest.fail("downloaded"))
    model = ["sfr-embedding-mistral", "--output", str(tmp_path / "repository")]
    assert cli.main([*model, *words]) == code
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_an_error_in_words(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("LASTTOKEN_CACHE", str(file))
    assert cli.main(["all-minilm-l6-v2", "--output", str(tmp_path / "out")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"{file}/" in line
    assert "Not a directory; free space, or choose a folder" in line
    assert not (tmp_path / "out").exists()
