"""Calibration of a small model: kept, found again, gone on with, always the same."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.errors import InvalidOption, NotEnoughMemory
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.quantisation import calibrate as calibrate_module
from lasttoken_export.quantisation.calibrate import calibrate_model
from lasttoken_export.quantisation.calibrate_entry import calibrate_entry
from lasttoken_export.quantisation.calibration_options import CalibrationOptions
from unit.export.checkpoints import tensors, write_folder
from unit.export.test_export import BYTES_CONFIG, make_entry
from unit.tokenizer.small import byte_level_tokenizer

ROWS = [np.arange(2, 2 + length, dtype=np.int32) for length in (1, 4, 11, 30)]


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(write_folder(tmp_path / "hf"))


def calibrate(checkpoint, folder, **changes):
    options = {"precision": "int8", "contract": EmbeddingContract(), "folder": folder}
    return calibrate_model(checkpoint, ROWS, **(options | changes))


def contents(calibration):
    return {
        f"{path.name}/{name}": array.tobytes()
        for path in sorted(calibration.folder.glob("*.npz"))
        for name, array in np.load(path).items()
    }


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_calibration_is_the_same_each_time(precision, checkpoint, tmp_path):
    first = calibrate(checkpoint, tmp_path / "a", precision=precision)
    second = calibrate(checkpoint, tmp_path / "b", precision=precision)
    assert contents(first) == contents(second)
    assert first.folder.name == second.folder.name
    assert len(first.manifest["linears"]) == 8


def test_it_is_kept_beside_the_checkpoint_and_found_again(checkpoint):
    first = calibrate(checkpoint, None)
    assert first.folder.is_relative_to(checkpoint.folder)
    layers = []
    again = calibrate(checkpoint, None, on_layer=lambda done, _: layers.append(done))
    assert again.folder == first.folder
    assert layers == []  # nothing was done


def test_a_stopped_calibration_goes_on_where_it_was(checkpoint, tmp_path):
    whole = calibrate(checkpoint, tmp_path / "whole")

    def stop(done, _):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, tmp_path / "stopped", on_layer=stop)
    layers = []
    resumed = calibrate(
        checkpoint, tmp_path / "stopped", on_layer=lambda done, _: layers.append(done)
    )
    assert layers == [1, 2]
    assert contents(resumed) == contents(whole)
    assert not list(resumed.folder.glob("hidden-*"))


def test_two_at_once_do_the_work_once(checkpoint, tmp_path):
    folder, waits, layers = tmp_path / "shared", threading.Event(), []

    def first_layer_is_slow(done, _):
        layers.append(done)
        assert waits.wait(30)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(calibrate, checkpoint, folder, on_layer=first_layer_is_slow)
        while not layers:
            assert not first.done()
            time.sleep(0.01)

        def say(line):
            assert "another process is at the calibration" in line
            waits.set()

        second = calibrate(checkpoint, folder, say=say, on_layer=lambda *_: pytest.fail("anew"))
        assert layers == [0, 1, 2]
        assert second.folder == first.result().folder


def test_one_of_two_that_is_stopped_is_gone_on_with(checkpoint, tmp_path):
    folder, waits, layers = tmp_path / "shared", threading.Event(), []

    def stop(done, _):
        layers.append(done)
        if done == 1:
            assert waits.wait(30)
            raise KeyboardInterrupt

    with ThreadPoolExecutor() as pool:
        first = pool.submit(calibrate, checkpoint, folder, on_layer=stop)
        while 1 not in layers:
            assert not first.done()
            time.sleep(0.01)
        second = calibrate(
            checkpoint,
            folder,
            say=lambda _: waits.set(),
            on_layer=lambda done, _: layers.append(done),
        )
        assert isinstance(first.exception(), KeyboardInterrupt)
    assert layers == [0, 1, 1, 2]
    assert contents(second) == contents(calibrate(checkpoint, tmp_path / "whole"))


def test_where_files_cannot_be_locked_it_is_calibrated_all_the_same(
    checkpoint, tmp_path, monkeypatch
):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert calibrate(checkpoint, tmp_path / "a", say=pytest.fail).manifest["linears"]


def test_a_full_disk_leaves_nothing_half_written(checkpoint, tmp_path, monkeypatch):
    whole = calibrate(checkpoint, tmp_path / "whole")
    save = np.savez

    def full(path, **arrays):
        save(path, **arrays)
        if "layer-001" in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        calibrate(checkpoint, tmp_path / "stopped")
    assert not list((tmp_path / "stopped").rglob("new-*"))
    monkeypatch.undo()
    layers = []
    resumed = calibrate(
        checkpoint, tmp_path / "stopped", on_layer=lambda done, _: layers.append(done)
    )
    assert layers == [1, 2]
    assert contents(resumed) == contents(whole)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


DAMAGES = {
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": flip_a_byte,
    "no zip": lambda path: path.write_text("words"),
    "gone": lambda path: path.unlink(),
    "another layer's": lambda path: shutil.copy(path.with_name("layer-000.npz"), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_layer_is_found_and_calibrated_anew(damage, checkpoint, tmp_path):
    whole = contents(first := calibrate(checkpoint, tmp_path))
    DAMAGES[damage](first.folder / "layer-001.npz")
    said = []
    assert contents(calibrate(checkpoint, tmp_path, say=said.append)) == whole
    assert len(said) == 1
    assert str(first.folder) in said[0]
    assert "calibrating anew" in said[0]
    assert calibrate(checkpoint, tmp_path, say=pytest.fail).folder == first.folder


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"linears": [], "scheme": 1}'])
def test_a_damaged_manifest_is_written_anew(content, checkpoint, tmp_path):
    manifest = calibrate(checkpoint, tmp_path).folder / "manifest.json"
    whole = manifest.read_text("utf-8")
    manifest.write_text(content)
    said = []
    calibrate(checkpoint, tmp_path, say=said.append)
    assert manifest.read_text("utf-8") == whole
    assert "calibrating anew" in said[0]


@pytest.mark.parametrize("name", ["hidden-001.npz", "layer-000.npz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_stopped_calibration_whose_files_are_damaged_goes_back(
    name, damage, checkpoint, tmp_path
):
    whole = contents(calibrate(checkpoint, tmp_path / "whole"))

    def stop(done, _):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(checkpoint, tmp_path / "stopped", on_layer=stop)
    DAMAGES[damage](next((tmp_path / "stopped").glob(f"*/{name}")))
    layers, said = [], []
    resumed = calibrate(
        checkpoint,
        tmp_path / "stopped",
        on_layer=lambda done, _: layers.append(done),
        say=said.append,
    )
    assert layers == [0, 1, 2]
    assert bool(said) is (damage != "gone")
    assert contents(resumed) == whole


def test_what_a_killed_process_left_is_removed_when_it_is_old(checkpoint, tmp_path):
    folder = calibrate(checkpoint, tmp_path).folder
    (folder / "manifest.json").unlink()
    (folder / "new-1-layer-001.npz").write_text("old")
    (folder / "new-1-abc").mkdir()
    (folder / "new-1-abc" / "layer.data").write_text("old")
    (folder / "new-2-layer-001.npz").write_text("of a process that lives")
    for name in ("new-1-layer-001.npz", "new-1-abc"):
        os.utime(folder / name, (1, 1))
    calibrate(checkpoint, tmp_path)
    assert [path.name for path in folder.glob("new-*")] == ["new-2-layer-001.npz"]


def test_too_little_memory_is_told_before_a_layer_is_run(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate_module, "available_memory_bytes", lambda: 1000)
    with pytest.raises(NotEnoughMemory, match=r"46 tokens.*fewer texts with --calibration-texts"):
        calibrate(checkpoint, tmp_path)


def test_the_states_of_all_tokens_count_as_memory(checkpoint, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        calibrate_module, "available_memory_bytes", lambda: asked.append(1) or 2_000_000
    )
    calibrate(checkpoint, tmp_path / "few")
    with pytest.raises(NotEnoughMemory):
        calibrate_model(
            checkpoint,
            [np.zeros(1000, np.int32)] * 100,
            precision="int8",
            contract=EmbeddingContract(),
            folder=tmp_path / "many",
        )
    assert len(asked) == 2


@pytest.mark.parametrize("seed", [-1, -(2**70)])
def test_a_seed_below_zero_is_refused(seed):
    with pytest.raises(InvalidOption, match="choose 0 or more"):
        CalibrationOptions(seed=seed)


def test_both_flavours_of_tensorrt_share_a_calibration_and_precisions_do_not(checkpoint, tmp_path):
    folders = {
        (name, target): calibrate(checkpoint, tmp_path, precision=name, target=target).folder
        for name in ("int8", "fp8")
        for target in ("tensorrt", "tensorrt-rtx")
    }
    assert folders["int8", "tensorrt"] == folders["int8", "tensorrt-rtx"]
    assert folders["fp8", "tensorrt"] == folders["fp8", "tensorrt-rtx"]
    on_the_cpu = calibrate(checkpoint, tmp_path, target="onnxruntime").folder
    assert len({*folders.values(), on_the_cpu}) == 3


def test_what_calibration_says_of_a_layers_error_is_what_its_codes_do(checkpoint, tmp_path):
    found = calibrate(checkpoint, tmp_path)
    linear = next(name for name in found.manifest["linears"] if name.endswith("down_proj"))
    with np.load(found.folder / "layer-000.npz") as file:
        error = float(file[f"{linear}/errors"][0])
    assert 0 < error < 0.01
    assert not found.needs_floats(linear) or error > 0.002
    codes = found.channel_codes(linear)
    assert codes.dtype == np.int8
    assert found.channel_scales(linear).shape == (codes.shape[1],)


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"contract": EmbeddingContract(attention="bidirectional")}]
)
def test_what_decides_the_scales_decides_their_folder(changes, checkpoint, tmp_path):
    assert (
        calibrate(checkpoint, tmp_path).folder != calibrate(checkpoint, tmp_path, **changes).folder
    )


def test_other_weights_have_another_folder(checkpoint, tmp_path):
    weights = tensors()
    weights["norm.weight"][0] += 1
    other = open_checkpoint(write_folder(tmp_path / "other", weights))
    assert calibrate(checkpoint, tmp_path).folder != calibrate(other, tmp_path).folder


def test_a_calibrated_precision_without_a_calibration_is_refused(checkpoint):
    with pytest.raises(InvalidOption, match="int8 needs a calibration; make one with"):
        model_graph(checkpoint, precision="int8", contract=EmbeddingContract())


def test_few_texts_of_ones_own_are_warned_of(tmp_path):
    folder = write_folder(tmp_path / "hf", tensors(BYTES_CONFIG), config=BYTES_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    texts, said = tmp_path / "texts", []
    for count, words in ((3, ["tokens in 3 calibration texts are few"]), (400, [])):
        texts.write_text("a text to calibrate on\n" * count)
        calibrate_entry(
            open_checkpoint(folder), make_entry(), precision="int8", target="onnxruntime",
            options=CalibrationOptions(texts=texts), say=said.append,
        )  # fmt: skip
        assert len(said) == len(words)
        assert all(word in line for word, line in zip(words, said, strict=True))
        said.clear()
