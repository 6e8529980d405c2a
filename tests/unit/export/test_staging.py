"""What an export writes aside is gone when it is, however it ended; another's is left alone."""

import signal
import subprocess
import sys

import pytest

from lasttoken_export import cli, staging
from lasttoken_export.commands import export as export_command
from lasttoken_export.errors import InvalidOption
from lasttoken_export.staging import remove_stale_staging, staging_folder
from unit.export.test_export import make_entry

EXPORT = """
import sys, time
from pathlib import Path
from lasttoken_export import cli, repository
from lasttoken_export.commands import export

def run_export(options, chosen, cache_folder):
    with repository.staged_model(chosen.output, "m") as writer:
        (writer.version_folder("_encoder") / "encoder.onnx").touch()
        print("writing", flush=True)
        time.sleep(60)

export.run_export = run_export
repository.staging_parent = lambda output: output  # as where it is a mount point
sys.exit(cli.main(["smollm2-135m", "--output", sys.argv[1]]))
"""


@pytest.fixture
def writing(tmp_path):
    """An export that is writing into tmp_path/repository, within which it stages."""
    with subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(tmp_path / "repository")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        yield process
        process.kill()


def lying_in(folder):
    return list(folder.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_cleans_up(writing, number, code, tmp_path):
    assert len(lying_in(tmp_path / "repository")) == 1
    writing.send_signal(number)
    assert writing.wait(timeout=30) == code
    assert not (tmp_path / "repository").exists()  # which it had made


def test_the_callers_own_handler_stays(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        export_command, "run_export", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)) or 0
    )
    for handler in (signal.SIG_IGN, signal.SIG_DFL):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            assert cli.main(["smollm2-135m", "--output", str(tmp_path / "x")]) == 0
            assert signal.getsignal(signal.SIGTERM) == handler
        finally:
            signal.signal(signal.SIGTERM, before)
    assert seen[0] == signal.SIG_IGN
    assert callable(seen[1])


def test_what_a_killed_export_left_is_removed_and_a_living_ones_is_not(writing, tmp_path):
    repository = tmp_path / "repository"
    [folder] = lying_in(repository)
    assert remove_stale_staging(repository) == []
    assert (folder / "new/m_encoder/1/encoder.onnx").is_file()
    writing.kill()
    writing.wait()
    assert folder.is_dir()
    assert remove_stale_staging(repository) == [
        f"removed {folder}, which an export that was killed had left"
    ]
    assert lying_in(repository) == []


def test_the_next_export_does_so_and_says_it(writing, tmp_path, monkeypatch, capsys):
    writing.kill()
    writing.wait()
    repository = tmp_path / "repository"
    [folder] = lying_in(repository)

    def refuse(*_, **__):
        raise InvalidOption("the rest does not matter")

    monkeypatch.setattr(export_command, "open_model", lambda *_, **__: None)
    monkeypatch.setattr(export_command, "find_entry", lambda *_: make_entry())
    monkeypatch.setattr("lasttoken_export.exporter.export_model", refuse)
    assert cli.main(["all-minilm-l6-v2", "--output", str(repository)]) == 2
    assert f"removed {folder}, which" in capsys.readouterr().err
    assert lying_in(repository) == []


def left(parent, *, boot=None, old=(), new=("m",)):
    """A staging folder of an export that is gone."""
    folder = parent / ".m.a1b2c3d4"
    for within, names in (("old", old), ("new", new)):
        for name in names:
            (folder / within / name).mkdir(parents=True)
    (folder / "lasttoken-export.lock").write_text(boot or staging._this_boot())
    return folder


def test_beside_the_repository_too(tmp_path):
    folder = left(tmp_path)
    assert remove_stale_staging(tmp_path / "repository") == [
        f"removed {folder}, which an export that was killed had left"
    ]
    assert not folder.exists()


def test_one_of_another_machine_or_of_no_export_is_named_and_stays(tmp_path):
    folder = left(tmp_path, boot="another")
    nameless = tmp_path / ".all_minilm_l6_v2.bhte6r22"  # of an exporter without locks
    (nameless / "new").mkdir(parents=True)
    foreign = [tmp_path / name for name in (".cache", ".mozilla.a1b2c3d4", "m.a1b2c3d4")]
    for path in foreign:
        path.mkdir()
    (tmp_path / ".x.a1b2c3d4").symlink_to(folder)
    lines = remove_stale_staging(tmp_path / "repository")
    assert [line.partition(" ")[0] for line in lines] == [str(nameless), str(folder)]
    assert all("remove it if no export is running" in line for line in lines)
    assert all(path.exists() for path in [folder, nameless, *foreign])


def test_a_model_that_was_being_replaced_is_not_thrown_away(tmp_path):
    folder = left(tmp_path, old=["m_tokenizer"], new=["m", "m_encoder"])
    [line] = remove_stale_staging(tmp_path / "repository")
    assert f"move what is in {folder / 'old'} back" in line
    assert (folder / "old/m_tokenizer").is_dir()
    (folder / "new/m").rmdir()
    (folder / "new/m_encoder").rmdir()  # all of it was published
    [line] = remove_stale_staging(tmp_path / "repository")
    assert line.startswith("removed ")


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(staging.fcntl, "flock", refuse)
    with staging_folder(tmp_path, "m") as folder:
        (folder / "new").mkdir()
        [line] = remove_stale_staging(tmp_path / "repository")
        assert line.startswith(f"{folder} may be")
    assert lying_in(tmp_path) == []
