"""What lies in a repository comes to no harm: what is published replaces its own name only."""

from pathlib import Path

import pytest

from lasttoken_export.errors import InvalidOption
from lasttoken_export.repository import check_output, staged_model

STEPS = ("_tokenizer", "_encoder", "")


def publish(repository, model, content):
    with staged_model(repository, model) as writer:
        for step in STEPS:
            (writer.version_folder(step) / "file").write_text(content)
        (writer.version_folder("") / "card.json").write_text("{}")


def contents(repository):
    return {path.parent.parent.name: path.read_text() for path in repository.glob("*/1/file")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("renames", range(6))
def test_what_was_there_comes_back_if_publishing_fails(renames, error, tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    publish(repository, "m", "old")
    done, rename = [], Path.rename

    def stopped(source, target):
        if len(done) == renames:
            monkeypatch.setattr(Path, "rename", rename)
            raise error
        done.append(source)
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(error):
        publish(repository, "m", "new")
    assert contents(repository) == {f"m{step}": "old" for step in STEPS}
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]
    publish(repository, "m", "new")
    assert set(contents(repository).values()) == {"new"}


def refuse(repository, meanwhile=lambda: None):
    with staged_model(repository, "m") as writer:
        (writer.version_folder("_encoder") / "file").write_text("half")
        meanwhile()
        raise InvalidOption("refused")


def test_a_refused_export_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(InvalidOption):
        refuse(tmp_path / "new" / "repository")
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    publish(tmp_path / "full", "other", "kept")
    for name in ("empty", "full"):
        with pytest.raises(InvalidOption):
            refuse(tmp_path / name)
    assert contents(tmp_path / "full") == {f"other{step}": "kept" for step in STEPS}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_what_others_wrote_meanwhile_stays(tmp_path):
    repository = tmp_path / "new"
    with pytest.raises(InvalidOption):
        refuse(repository, meanwhile=lambda: publish(repository, "other", "kept"))
    assert set(contents(repository).values()) == {"kept"}


def test_an_export_of_the_name_may_be_replaced_and_nothing_else(tmp_path):
    publish(tmp_path, "m", "old")
    check_output(tmp_path, "m")
    check_output(tmp_path, "other")
    for name in ("a", "b_encoder", "c_tokenizer"):  # somebody's own models
        (tmp_path / name / "1").mkdir(parents=True)
        with pytest.raises(InvalidOption, match=f"{name} is there and is no export named"):
            check_output(tmp_path, name[0])
