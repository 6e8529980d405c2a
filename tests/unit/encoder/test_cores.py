"""Threads are as many as the cores that a container may use."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cores
import engine_choice
import onnxruntime as ort
import pytest
from cores import cpu_quota, limited_cores, physical_cores
from onnxruntime_session import open_session

from unit.encoder.test_processor import product

VERSION_2, VERSION_1 = "0::{}\n", "4:cpu,cpuacct:{0}\n0::{0}\n"


def control_groups(folder, files):
    """A mount of control groups that holds the files, by path."""
    root = folder / "cgroup"
    root.mkdir()
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("line", "path", "files", "quota"),
    [
        pytest.param(VERSION_2, "/", {"cpu.max": "400000 100000\n"}, 4, id="in its container"),
        pytest.param(VERSION_2, "/", {"cpu.max": "max 100000\n"}, None, id="no limit"),
        pytest.param(VERSION_2, "/a/b", {"a/b/cpu.max": "50000 100000\n"}, 0.5, id="of its own"),
        pytest.param(
            VERSION_2,
            "/a/b",
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "250000 100000\n"},
            2.5,
            id="of the pod",
        ),
        pytest.param(
            VERSION_2,
            "/a",
            {"a/cpu.max": "600000 100000\n", "cpu.max": "300000 100000\n"},
            3,
            id="the least of all",
        ),
        pytest.param(VERSION_2, "/gone", {}, None, id="another mount's"),
        pytest.param(
            VERSION_1,
            "/kubepods/x",  # where the host has it; the container sees its own at the top
            {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1.5,
            id="version 1",
        ),
        pytest.param(
            VERSION_1,
            "/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            None,
            id="version 1, no limit",
        ),
    ],
)
def test_the_quota_is_the_least_of_the_processs_groups(line, path, files, quota, tmp_path):
    process = tmp_path / "process"
    process.write_text(line.format(path))
    assert cpu_quota(control_groups(tmp_path, files), process) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "none") is None


def test_two_threads_of_a_core_are_one_core(tmp_path):
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        topology = tmp_path / f"cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings)
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 1
    assert physical_cores({0, 1}, tmp_path / "none") == 2


@pytest.mark.parametrize(
    ("processors", "allowed", "quota", "expected"),
    [
        (8, 8, None, None),
        (8, 8, 8.0, None),
        (8, 8, 16.0, None),
        (8, 8, 7.5, None),
        (8, 8, 3.2, 4),
        (8, 8, 0.5, 1),
        (8, 2, None, 2),
        (8, 4, 3.0, 3),
        (8, 2, 3.0, 2),
    ],
)
def test_cores_are_those_of_affinity_and_quota(processors, allowed, quota, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    monkeypatch.setattr(cores, "physical_cores", len)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert limited_cores() == expected


def test_other_systems_say_nothing(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert limited_cores() is None


@pytest.mark.parametrize(
    ("asked", "limit", "threads"), [(0, None, 0), (0, 3, 3), (5, 3, 5), (5, None, 5)]
)
def test_a_session_has_so_many_threads(asked, limit, threads, tmp_path, monkeypatch):
    path, _ = product(tmp_path)
    options = ort.SessionOptions()
    monkeypatch.setattr("onnxruntime_session.ort.SessionOptions", lambda: options)
    monkeypatch.setattr("onnxruntime_session.limited_cores", lambda: limit)
    open_session(path, runtime="onnxruntime-cpu", intra_op_threads=asked)
    assert options.intra_op_num_threads == threads


def test_threads_do_not_spin_between_batches(tmp_path):
    path, _ = product(tmp_path)
    session = open_session(path, runtime="onnxruntime-cpu", intra_op_threads=2)
    entry = session.get_session_options().get_session_config_entry("session.force_spinning_stop")
    assert entry == "1"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_affinity_of_a_real_process_is_seen():
    processor = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, {{{processor}}}); import cores; "
        "print(cores.limited_cores())"
    )
    folder = Path(cores.__file__).parent
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, cwd=folder, text=True).strip() == "1"


@pytest.mark.parametrize(
    ("asked", "limit", "told"), [(0, 3, True), (0, None, False), (2, 3, False)]
)
def test_a_server_says_that_it_uses_fewer(asked, limit, told, monkeypatch, caplog):
    monkeypatch.setattr(engine_choice, "limited_cores", lambda: limit)
    monkeypatch.setattr(engine_choice, "PaddedEngine", lambda graph, **options: graph)
    settings = SimpleNamespace(
        runtime="onnxruntime-cpu", graph_form="padded", precision="fp32", intra_op_threads=asked,
        streams=1,
    )  # fmt: skip
    engine_choice.open_engine(Path("1"), settings)
    assert ("may use 3 of" in caplog.text) == told
