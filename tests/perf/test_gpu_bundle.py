"""What is packed for a machine that has torch and no network."""

import importlib.metadata
import json
import subprocess

import pytest

from lasttoken_export import _version
from lasttoken_perf.errors import InvalidSuite
from lasttoken_perf.gpu_suite.bundle import (
    lacking,
    lowest_versions,
    main,
    parse_installed,
    write_parts,
)

LOCKED = [
    "# comment", "numpy==2.4.6", "onnx-ir==1.1.0", "gguf==0.19.0", "protobuf==7.36.2",
    "tqdm==4.70.1 ; sys_platform == 'linux'", "tritonclient==2.63.0", "typing-extensions==4.16.0",
]  # fmt: skip
DECLARED = {"numpy": "1.26", "onnx-ir": "1.1", "gguf": "0.19", "tqdm": "4.67",
            "tritonclient": "2.60"}  # fmt: skip


def test_what_the_machine_has_stays_out_where_its_version_will_do():
    installed = {"numpy": "2.5.2", "onnx-ir": "1.0.0", "protobuf": "6.33.1", "tqdm": "4.67.1",
                 "typing-extensions": "4.16.0rc1", "torch": "2.11.0"}  # fmt: skip
    assert lacking(LOCKED, DECLARED, installed) == [
        "onnx-ir==1.1.0",  # too old for what we declare
        "gguf==0.19.0",
        "protobuf==7.36.2",  # comes along, and is older than what was tested
        "tritonclient==2.63.0",
    ]
    assert len(lacking(LOCKED, DECLARED, {})) == 7


def test_bounds_and_lists_are_read():
    declared = ["numpy>=1.26", "tritonclient[grpc]>=2.60", "nvidia-ml-py>=13", "lasttoken"]
    assert lowest_versions(declared) == {
        "numpy": "1.26", "tritonclient": "2.60", "nvidia-ml-py": "13",
    }  # fmt: skip
    listed = json.dumps([{"name": "ml_dtypes", "version": "0.5.4"}])
    assert parse_installed(listed) == {"ml-dtypes": "0.5.4"}
    assert parse_installed("torch==2.11.0+cu130\nOnnx_IR==1.0.0\n") == {
        "torch": "2.11.0+cu130", "onnx-ir": "1.0.0",
    }  # fmt: skip
    with pytest.raises(InvalidSuite, match="pip list --format=json"):
        parse_installed("Package Version\n------- -------\n")


def test_parts_are_small_and_whole_once_joined(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "site/package").mkdir(parents=True)
    content = bytes(range(256)) * 4096
    (folder / "site/package/module.py").write_bytes(content)
    (folder / "part-007").write_text("of an earlier bundle")
    parts = write_parts(folder, ["site"], 2000)
    assert [part.name for part in parts] == [f"part-{i:03}" for i in range(len(parts))]
    assert len(parts) > 1
    assert max(part.stat().st_size for part in parts) <= 2000
    assert sorted(folder.glob("part-*")) == parts
    out = tmp_path / "out"
    out.mkdir()
    # As `make gpu-unpack` does.
    subprocess.run(f"cat {folder}/part-* | tar -xzf - -C {out}", shell=True, check=True)  # noqa: S602
    assert (out / "site/package/module.py").read_bytes() == content


def test_a_list_that_cannot_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "has").write_text("?")
    assert main(["--has", str(tmp_path / "has"), "--output", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err.startswith("error: --has must be what")
    assert not (tmp_path / "x").exists()


def test_a_checkout_on_the_path_needs_no_installed_package(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patched:
        patched.setattr(importlib.metadata, "version", version)
        assert importlib.reload(_version).__version__ == "0+checkout"
    assert importlib.reload(_version).__version__ != "0+checkout"
